"""Processes of this host: detached daemons, signals that can only reach whom they are meant for, memory and processors
that this process may use.

A process is named by pid AND start time; a pid alone may have been given to a stranger meanwhile. A zombie is dead.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from llorch.base.errors import HostError
from llorch.host.interrupts import Presses

if TYPE_CHECKING:
    import asyncio

STDIN_SIZE_MAX = 4096  # what every pipe holds, so that handing it over cannot block
KILL_WAIT_S = 5.0
_POLL_S = 0.02
_PR_SET_PDEATHSIG = 1
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class Spawned:
    """A started process; `start_time` is what `start_time(pid)` says as long as it lives."""

    pid: int
    start_time: float


class Outcome(Enum):
    """How `terminate` ended."""

    NOT_RUNNING = "not running"  # dead already, or the pid belongs to another process now
    STOPPED = "stopped"  # ended after SIGTERM
    KILLED = "killed"  # needed SIGKILL


class Lifetime(Enum):
    """How long a spawned process may live."""

    OWN = "own"  # it outlives us
    OURS = "ours"  # the kernel kills it when the thread that started it ends, however that ends (Linux only)


def spawn_detached(
    argv: Sequence[str],
    *,
    log_path: Path,
    env: Mapping[str, str] | None = None,
    stdin_data: bytes | None = None,
    lifetime: Lifetime = Lifetime.OWN,
) -> Spawned:
    """Start `argv` so that it outlives this process (see `lifetime`), its terminal and its SSH session.

    stdout and stderr are appended to `log_path` (0600); stdin reads `stdin_data` (at most 4 KiB: secrets travel here,
    never in argv) and then ends. `env` is laid over `clean_environment()`. Raises HostError if it cannot start.
    """
    import subprocess  # 3 ms that `worker list` need not spend

    environment = {**clean_environment(), **source_path(), **(env or {})}
    bind = bound_to(os.getpid()) if lifetime is Lifetime.OURS else None
    stdin = prepared_stdin(stdin_data)
    try:
        log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            process = subprocess.Popen(
                list(argv),
                env=environment,
                stdin=stdin,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                preexec_fn=bind,
            )
        finally:
            os.close(log)
    except OSError as error:
        raise HostError(f"cannot start {argv[0]}: {error.strerror or error}") from error
    finally:
        os.close(stdin)
    # Popen has not waited for it, so the pid is still its own even if it died at once.
    seen = _look(process.pid)
    return Spawned(process.pid, seen[1] if seen is not None else 0.0)


def bound_to(parent: int) -> Callable[[], None]:
    """What has the kernel kill the process that calls it when its parent, `parent`, ends; it stays so across an exec.

    All is prepared beforehand, so that it may run between fork and exec. Where there is no such thing it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return lambda: None
    import ctypes

    prctl = ctypes.CDLL(None).prctl

    def bind() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:  # it ended before the call
            os.kill(os.getpid(), signal.SIGKILL)

    return bind


def source_path() -> dict[str, str]:
    """From sources a daemon must find the package again although it starts in `/`."""
    if getattr(sys, "frozen", False):
        return {}
    inherited = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {"PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[2]), *inherited])}


def prepared_stdin(data: bytes | None) -> int:
    """A file descriptor that yields `data` and then end of file."""
    if data is None:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    assert len(data) <= STDIN_SIZE_MAX, "stdin data must fit the pipe"
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    return reader


def clean_environment() -> dict[str, str]:
    """This process's environment without what the frozen file's bootloader put into it.

    A daemon, and any program that is not ours, must see neither our temporary folder nor our library path.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("_PYI_")}
    if getattr(sys, "frozen", False):
        original = environment.pop("LD_LIBRARY_PATH_ORIG", None)
        environment.pop("LD_LIBRARY_PATH", None)
        if original is not None:
            environment["LD_LIBRARY_PATH"] = original
        environment["PYINSTALLER_RESET_ENVIRONMENT"] = "1"
    return environment


def start_time(pid: int) -> float | None:
    """When process `pid` started, or None if there is none (a zombie counts as none).

    Only for comparing: seconds since boot on Linux (the kernel's number, immune to clock changes), Unix time elsewhere.
    """
    seen = _look(pid)
    return None if seen is None or seen[0] else seen[1]


def is_alive(pid: int, start_time: float) -> bool:
    """Is the process that had `pid` at `start_time` still running?"""
    seen = _look(pid)
    return seen is not None and not seen[0] and abs(seen[1] - start_time) < 0.005


def _look(pid: int) -> tuple[bool, float] | None:
    """(is a zombie, start time) of `pid`, None when there is no such process."""
    if pid <= 0:
        return None
    if not sys.platform.startswith("linux"):
        return _look_elsewhere(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(b")")[2].split()  # the name before it may hold spaces and brackets
    return fields[0] in (b"Z", b"X"), int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _look_elsewhere(pid: int) -> tuple[bool, float] | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE, process.create_time()
    except psutil.NoSuchProcess:
        return None


def terminate(pid: int, start_time: float, *, grace_s: float) -> Outcome:
    """SIGTERM, wait up to `grace_s`, then SIGKILL; never a signal to a process with another start time.

    Raises HostError if the process belongs to someone else or does not even end by SIGKILL.
    """
    handle = _open_handle(pid)
    try:
        # Looked up after the handle was opened: from here on the handle means this very process.
        if not is_alive(pid, start_time) or not _send(handle, pid, signal.SIGTERM):
            return Outcome.NOT_RUNNING
        if _wait(handle, pid, start_time, grace_s):
            return Outcome.STOPPED
        if is_alive(pid, start_time):
            _send(handle, pid, signal.SIGKILL)
        if not _wait(handle, pid, start_time, KILL_WAIT_S):
            raise HostError(f"process {pid} does not end, not even by SIGKILL")
        return Outcome.KILLED
    finally:
        if handle is not None:
            os.close(handle)


def wait_for_end(pid: int, start_time: float, timeout_s: float) -> bool:
    """Did the process end by itself within `timeout_s`?"""
    handle = _open_handle(pid)
    try:
        return not is_alive(pid, start_time) or _wait(handle, pid, start_time, timeout_s)
    finally:
        if handle is not None:
            os.close(handle)


def kill(spawned: Spawned) -> None:
    """SIGKILL, as when the machine loses power: no goodbye, no waiting. Nothing happens when it ended already."""
    handle = _open_handle(spawned.pid)
    try:
        if is_alive(spawned.pid, spawned.start_time):
            _send(handle, spawned.pid, signal.SIGKILL)
    finally:
        if handle is not None:
            os.close(handle)


def on_stop(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Call `callback` in `loop` for every SIGTERM and SIGINT of this process, instead of dying of it."""
    presses = Presses()

    def heard(number: int) -> None:
        if not presses.is_echo(number):
            callback()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, heard, number)


def on_reload(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Call `callback` in `loop` for every SIGHUP; on a terminal, where it means that this is gone, it still ends us."""
    if not sys.stdin or not sys.stdin.isatty():
        loop.add_signal_handler(signal.SIGHUP, callback)


def _open_handle(pid: int) -> int | None:
    """A pidfd where the kernel has it: it cannot be re-used by another process as a pid can."""
    if pid <= 0 or not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _send(handle: int | None, pid: int, number: signal.Signals) -> bool:
    """Was there a process to signal?"""
    try:
        if handle is not None:
            signal.pidfd_send_signal(handle, number)
        else:
            os.kill(pid, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        raise HostError(f"process {pid} belongs to another user") from None
    return True


def _wait(handle: int | None, pid: int, start_time: float, timeout_s: float) -> bool:
    """Did the process end within `timeout_s`?"""
    if handle is not None:
        import select

        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))
    deadline = time.monotonic() + timeout_s
    while is_alive(pid, start_time):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def available_memory_bytes() -> int:
    """Bytes a new process may use without swapping: the machine's, or what the tightest cgroup above us leaves."""
    import psutil

    available = int(psutil.virtual_memory().available)
    return min([available, *_cgroup_headrooms(_MEMBERSHIP, _CGROUP_ROOT)])


def mapped_below(folder: Path) -> set[str]:
    """Names directly below `folder` in which files lie that some process has mapped; elsewhere than on Linux all."""
    if not sys.platform.startswith("linux"):
        return {path.name for path in folder.iterdir()}
    lead = f"{folder.resolve()}/".encode()
    used: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            lines = maps.read_bytes().splitlines()
        except OSError:
            continue  # it ended, or is another user's
        paths = (line[line.index(lead) + len(lead) :] for line in lines if lead in line)
        used |= {os.fsdecode(path.partition(b"/")[0]) for path in paths}
    return used


def resident_bytes(pid: int) -> int:
    """Bytes of main memory that process `pid` holds; 0 when it is gone or not ours to look at."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def processors_allowed() -> int:
    """Processors this process may keep busy: its affinity, or the tightest cgroup's cpu.max rounded up."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([allowed, *_cgroup_processors(_MEMBERSHIP, _CGROUP_ROOT)])


def _cgroup_processors(membership: Path, root: Path) -> list[int]:
    """The CPU time a second that every cgroup this process is in may take (v2), in processors, at least 1."""
    found = []
    for _, path in (row for row in _memberships(membership) if row[0] == ""):
        for group in _groups_up(root, path):
            try:
                quota, period = map(int, (group / "cpu.max").read_text().split())
                found.append(max(1, -(-quota // period)))
            except (OSError, ValueError, ZeroDivisionError):
                continue  # "max", or a controller that is not enabled at this level
    return found


def _memberships(membership: Path) -> list[tuple[str, str]]:
    """(controllers, path) of each hierarchy this process is in; controllers are "" in v2."""
    try:
        rows = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return []
    return [(row[1], row[2]) for row in rows if len(row) == 3]


def _groups_up(root: Path, path: str) -> list[Path]:
    """The cgroup `path` and those above it, up to the root of what we see."""
    inner = root / path.lstrip("/")
    return [group for group in (inner, *inner.parents) if group.is_relative_to(root)]


def _cgroup_headrooms(membership: Path, root: Path) -> list[int]:
    """Limit minus use of every cgroup this process is in (v2, and v1's memory controller); unlimited ones left out."""
    headrooms = []
    for controllers, path in _memberships(membership):
        if controllers == "":
            headrooms += _headrooms_up(root, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            headrooms += _headrooms_up(root / "memory", path, *names)
    return headrooms


def _headrooms_up(root: Path, path: str, limit_file: str, usage_file: str, reclaimable: str) -> list[int]:
    headrooms = []
    for group in _groups_up(root, path):
        try:
            limit = int((group / limit_file).read_text())
            usage = int((group / usage_file).read_text())
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            headrooms.append(max(0, limit - usage + int(stat.get(reclaimable, 0))))
        except (OSError, ValueError):
            continue  # "max", or a controller that is not enabled at this level
    return headrooms
