"""`worker spawn`: check, choose a port, start the detached process, record it, wait until it is ready.

A worker that does not become ready leaves nothing behind but its log.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict
from pathlib import Path

from llorch.base import ids
from llorch.base.addresses import local_url
from llorch.base.clock import iso
from llorch.base.errors import HostError, LlorchError, NotFound, UsageError
from llorch.base.home import Home, find_home
from llorch.host import devices, disk, interrupts, ports, process, runtime
from llorch.pool import catalog_file, fit, handover, health, measured, records
from llorch.pool.handover import LOOPBACK, Handover
from llorch.pool.measured import Shape
from llorch.pool.output import print_json
from llorch.pool.records import HOME_ID_VARIABLE, WorkerRecord
from llorch.pool.terminal import Terminal
from llorch.wire.catalog import ModelEntry

FIRST_PORT = 8001
STATUS_FILE_VARIABLE = "LLORCH_STATUS_FILE"
LOG_FILE_VARIABLE = "LLORCH_WORKER_LOG_FILE"
READY_TIMEOUT_S = 600.0
_POLL_S = 0.05
_STOP_GRACE_S = 5.0
_TAIL_LINES = 12
_PORTS_LOST_MAX = 4
_TOO_LATE = "it was not ready within"
_LOGS_KEPT = 20
_LOG_ROOM_BYTES = 16 << 20
# How a worker computes: flags that are passed on to it, and the words each takes.
_CHOICES = {
    "dtype": ("auto", "fp32", "bf16"),
    "kernels": ("auto", "native", "torch"),
    "quantize": ("none", "int8"),
}
# A worker has no business with the hub's credentials, nor with the key of a client.
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "LLORCH_API_KEY")
_PATH_VARIABLES = ("LLORCH_CONFIG", "LLORCH_CACHE", "LLORCH_STATE", "LLORCH_REPO", "LLORCH_WORKER_TOKEN_FILE")


def spawn_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("backend", nargs="?", metavar="BACKEND", help="cpu, cuda or metal")
    parser.add_argument("--backend", dest="backend_flag", metavar="BACKEND", help="the same as a flag")
    parser.add_argument("--model", required=True, metavar="ID", help="a downloaded model of the catalog")
    parser.add_argument("--gpu", type=int, metavar="N", help="device number (default 0; cuda and metal only)")
    parser.add_argument("--port", type=int, metavar="P", help=f"port (default: the first free one from {FIRST_PORT})")
    parser.add_argument("--slots", type=int, metavar="N", help="concurrent sequences")
    parser.add_argument("--context", type=int, metavar="N", help="positions per sequence")
    parser.add_argument("--kv-mib", type=int, metavar="MIB", help="memory for keys and values")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    parser.add_argument("--dtype", metavar="TYPE", help=f"arithmetic: {', '.join(_CHOICES['dtype'])}")
    parser.add_argument("--kernels", metavar="KIND", help=f"what computes: {', '.join(_CHOICES['kernels'])}")
    parser.add_argument("--quantize", metavar="KIND", help=f"weights: {', '.join(_CHOICES['quantize'])}")
    parser.add_argument("--worker-id", metavar="ID", help="id (default: worker-BACKEND-HEX)")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until the model is loaded")
    parser.add_argument("--timeout", type=float, default=READY_TIMEOUT_S, metavar="S", help="how long to wait (600)")
    parser.add_argument("--force", action="store_true", help="start although the free memory looks too small")
    parser.add_argument("--remote-stdin", action="store_true", help=argparse.SUPPRESS)
    parser.epilog = "example: llorch-pool worker spawn cpu --model demo"


def spawn(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """JSON: {worker: record, state: ready|loading}; on behalf of another program also {error: {code, message}}."""
    try:
        return _spawn(arguments, terminal)
    except LlorchError as error:
        if arguments.remote_stdin and arguments.json:
            print_json({"error": {"code": error.code, "message": error.message}})
        raise


def _spawn(arguments: argparse.Namespace, terminal: Terminal) -> int:
    given = handover.read() if arguments.remote_stdin else Handover()
    record = start(arguments, given, terminal)
    return _report(record, "loading" if arguments.no_wait else "ready", arguments)


def start(arguments: argparse.Namespace, given: Handover, terminal: Terminal) -> WorkerRecord:
    """A started worker, ready unless --no-wait. Raises LlorchError; then nothing is left of it but its log."""
    backend = _backend(arguments)
    home = find_home(os.environ)
    entry = downloaded(home, arguments.model)
    reason = devices.why_not(backend)
    if reason is not None:
        raise HostError(f"backend {backend} is not available here: {reason}")
    _check_room(home, entry, backend, arguments)
    with interrupts.as_keyboard_interrupt():
        record = _start_and_wait(home, entry, backend, given, arguments, terminal)
    if not arguments.no_wait:
        _measure(home, entry, record, Shape.of(backend, vars(arguments)))
    return record


def downloaded(home: Home, model_id: str) -> ModelEntry:
    """The catalog's entry of a model that is here. Raises NotFound."""
    entry = catalog_file.load(home).get(model_id)
    if not entry.downloaded or not (entry.embedded or catalog_file.directory(home, entry).is_dir()):
        raise NotFound(f"model '{entry.id}' is not downloaded (run: llorch-pool models download {entry.id})")
    return entry


def _measure(home: Home, entry: ModelEntry, record: WorkerRecord, shape: Shape) -> None:
    """Keep what the new worker takes, for the next fit check; without an answer from it nothing is kept."""
    facts = health.ask(record.url)
    if facts is not None and facts.get("worker_id") == record.worker_id:
        taken = fit.memory_taken(record.pid, record.backend, int(facts.get("vram_bytes") or 0))
        if taken:
            measured.remember(home, entry, shape, facts, taken)


class _PortLost(HostError):
    """Somebody else took the port between our look and the worker's start."""


def _start_and_wait(
    home: Home, entry: ModelEntry, backend: str, given: Handover, arguments: argparse.Namespace, terminal: Terminal
) -> WorkerRecord:
    """A started, and unless --no-wait a ready, worker; on another port when a stranger was quicker than it."""
    lost: set[int] = set()
    while True:
        try:
            with contextlib.ExitStack() as undo:
                record = _start(home, entry, backend, given, arguments, lost, undo)
                if not arguments.no_wait:
                    _wait_ready(home, record, given, arguments, terminal)
            return record
        except _PortLost:
            # Only processes of another home can do this: the lock keeps our own apart.
            lost.add(record.port)
            if len(lost) == _PORTS_LOST_MAX:
                raise


def _backend(arguments: argparse.Namespace) -> str:
    named = {name for name in (arguments.backend, arguments.backend_flag) if name is not None}
    if len(named) != 1:
        known = ", ".join(devices.BACKENDS)
        raise UsageError(f"name one backend: {known}" if not named else "two different backends are named")
    backend = named.pop()
    if backend not in devices.BACKENDS:
        raise UsageError(f"unknown backend '{backend}'; backends: {', '.join(devices.BACKENDS)}")
    if backend == "cpu" and arguments.gpu is not None:
        raise UsageError("--gpu needs a GPU backend, not cpu")
    if arguments.worker_id is not None and not ids.WORKER_ID.fullmatch(arguments.worker_id):
        raise UsageError(f"--worker-id must match {ids.WORKER_ID.pattern}")
    for name, words in _CHOICES.items():
        if getattr(arguments, name) is not None and getattr(arguments, name) not in words:
            raise UsageError(f"--{name} must be one of {', '.join(words)}")
    bounds = (
        ("--port", arguments.port, 65535),
        ("--slots", arguments.slots, 256),
        ("--threads", arguments.threads, 256),
    )
    for flag, value, most in bounds:
        if value is not None and not 1 <= value <= most:
            raise UsageError(f"{flag} must be between 1 and {most}")
    return backend


def _check_room(home: Home, entry: ModelEntry, backend: str, arguments: argparse.Namespace) -> None:
    """Memory for the worker (it looks again, exactly, when it knows the model) and room for a log."""
    if disk.free_bytes(home.workers_dir) < _LOG_ROOM_BYTES:
        raise HostError(f"the disk that holds {home.workers_dir} is full")
    if not arguments.force:
        shape = Shape.of(backend, vars(arguments))
        fit.check(home, entry, shape, catalog_file.present_bytes(home, entry), arguments.gpu or 0)


def _start(
    home: Home,
    entry: ModelEntry,
    backend: str,
    given: Handover,
    arguments: argparse.Namespace,
    lost: Collection[int],
    undo: contextlib.ExitStack,
) -> WorkerRecord:
    """Choose id and port, start the process and record it, all under one lock: two spawns at once never clash.

    From its first moment on the process is ended again when `undo` is left by an error or an interrupt.
    """
    disk.make_dir(home.workers_dir, mode=0o700)
    command = runtime.daemon_command("worker")
    with disk.locked(home.workers_lock_path):
        worker_id = arguments.worker_id or ids.new_worker_id(backend)
        downloaded(home, entry.id)  # its files may have been deleted meanwhile, under this very lock
        known = records.load_all(home)
        if any(record.worker_id == worker_id and record.is_alive() for record in known):
            raise HostError(f"worker '{worker_id}' is running already")
        taken = {record.port for record in known if record.is_alive()}.union(lost)
        port = ports.choose(given.bind, arguments.port, FIRST_PORT, taken)
        records.remove(home, worker_id)
        _forget_old_logs(home, {record.worker_id for record in known})
        home_id = records.home_id(home)
        log_path = records.log_path(home, worker_id)
        flags = _worker_flags(home, worker_id, entry, backend, port, given, arguments)
        environment = _environment(home, worker_id, home_id)
        undo.enter_context(_tidied_on_failure(home, worker_id))
        with interrupts.held_off():  # started and not noted, it would be left behind
            spawned = process.spawn_detached([*command, *flags], log_path=log_path, env=environment)
            undo.enter_context(_ended_on_failure(spawned))
        record = WorkerRecord(
            worker_id=worker_id,
            pid=spawned.pid,
            start_time=spawned.start_time,
            port=port,
            url=local_url(given.bind, port),
            model=entry.id,
            backend=backend,
            gpu=None if backend == "cpu" else arguments.gpu or 0,
            log_path=str(log_path),
            home_id=home_id,
            spawned_at=iso(time.time()),
            build_id=runtime.build().build_id,
            flags=tuple(flags),
        )
        records.save(home, record)
        return record


def _worker_flags(
    home: Home,
    worker_id: str,
    entry: ModelEntry,
    backend: str,
    port: int,
    given: Handover,
    arguments: argparse.Namespace,
) -> list[str]:
    flags = ["--worker-id", worker_id, "--model", entry.id, "--port", str(port), "--backend", backend]
    flags += ["--bind", given.bind]
    if given.worker_token and not given.insecure_lan:
        token_path = records.token_path(home, worker_id)
        disk.write_atomic(token_path, given.worker_token.encode() + b"\n", mode=0o600)
        flags += ["--token-file", str(token_path)]
    if given.insecure_lan and given.bind != LOOPBACK:
        flags += ["--insecure-lan"]
    if given.callback_url:
        flags += ["--callback-url", given.callback_url]
    if backend != "cpu":
        flags += ["--gpu", str(arguments.gpu or 0)]
    for name in ("slots", "context", "kv_mib", "threads", *_CHOICES):
        if getattr(arguments, name) is not None:
            flags += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    return flags


def _environment(home: Home, worker_id: str, home_id: str) -> dict[str, str]:
    """What the worker's environment has beside ours. A daemon runs in `/`, so relative paths are made absolute."""
    environment = {
        HOME_ID_VARIABLE: home_id,
        STATUS_FILE_VARIABLE: str(records.status_path(home, worker_id)),
        LOG_FILE_VARIABLE: str(records.log_path(home, worker_id)),
        "LLORCH_HOME": os.environ.get("LLORCH_HOME", "") if _in_checkout() else str(home.root),
    }
    if _in_checkout():
        environment["LLORCH_REPO"] = str(home.root)
    for name in _PATH_VARIABLES:
        if os.environ.get(name) and name not in environment:
            environment[name] = str(Path(os.environ[name]).absolute())
    return {**environment, **{name: "" for name in _SECRETS if name in os.environ}}


def _in_checkout() -> bool:
    from llorch.base.home import CHECKOUT

    return os.environ.get("LLORCH_HOME") == CHECKOUT


def _forget_old_logs(home: Home, keep: set[str]) -> None:
    """Logs of workers long gone; the newest ones stay for whoever asks what happened."""
    logs = [path for path in home.workers_dir.glob("*.log") if path.stem not in keep]
    logs.sort(key=lambda path: path.stat().st_mtime)
    for path in logs[:-_LOGS_KEPT]:
        for rotated in (path, *path.parent.glob(f"{path.name}.*")):
            rotated.unlink(missing_ok=True)


@contextlib.contextmanager
def _tidied_on_failure(home: Home, worker_id: str) -> Iterator[None]:
    """Whatever goes wrong inside, Ctrl-C included: no record and no token remains."""
    done = False
    try:
        yield
        done = True
    finally:
        if not done:
            records.remove(home, worker_id)


@contextlib.contextmanager
def _ended_on_failure(spawned: process.Spawned) -> Iterator[None]:
    """Whatever goes wrong inside, Ctrl-C included: no process remains."""
    done = False
    try:
        yield
        done = True
    finally:
        if not done:
            with interrupts.held_off():
                process.terminate(spawned.pid, spawned.start_time, grace_s=_STOP_GRACE_S)


def _wait_ready(
    home: Home, record: WorkerRecord, given: Handover, arguments: argparse.Namespace, terminal: Terminal
) -> None:
    """Until the worker says ready; HostError, after the log's last lines on stderr, when it fails or takes too long.

    _PortLost when it failed, had a port of our choice, and that port is somebody else's now.
    """
    shown = LoadDisplay(terminal, record)
    deadline = time.monotonic() + arguments.timeout
    try:
        while True:
            alive = record.is_alive()
            status = records.read_status(home, record.worker_id)
            if status.get("state") == "ready" and alive:
                return
            if status.get("state") == "failed" or not alive:
                reason = str(status.get("error") or "it ended while starting")
                break
            if time.monotonic() >= deadline:
                reason = f"{_TOO_LATE} {arguments.timeout:g} s"
                break
            shown.update(status.get("progress"))
            time.sleep(_POLL_S)
    finally:
        shown.close()
    if arguments.port is None and not ports.is_free(given.bind, record.port) and not reason.startswith(_TOO_LATE):
        raise _PortLost(f"no port could be kept for worker {record.worker_id}: {reason}")
    for line in records.tail(Path(record.log_path), _TAIL_LINES):
        print(f"  {line}", file=sys.stderr)
    raise HostError(f"worker {record.worker_id} did not start: {reason} (log: {record.log_path})")


class LoadDisplay:
    """Load progress on stderr: redrawn in place on a terminal, a line every tenth elsewhere."""

    def __init__(self, terminal: Terminal, record: WorkerRecord) -> None:
        self._interactive = terminal.interactive
        self._what = f"{record.worker_id} loads {record.model} on port {record.port}"
        self._shown = -1

    def update(self, fraction: object) -> None:
        """`fraction` is 0 to 1, or anything else when the worker has not said yet."""
        percent = int(100 * min(1.0, max(0.0, fraction))) if isinstance(fraction, (int, float)) else 0
        step = percent if self._interactive else percent // 10 * 10
        if step == self._shown:
            return
        self._shown = step
        text = f"{self._what}: {step} %"
        print(f"\r{text}\x1b[K" if self._interactive else text, end="" if self._interactive else "\n", file=sys.stderr)
        sys.stderr.flush()

    def close(self) -> None:
        """Clear the line."""
        if self._interactive and self._shown >= 0:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _report(record: WorkerRecord, state: str, arguments: argparse.Namespace) -> int:
    if arguments.json:
        print_json({"worker": asdict(record), "state": state})
    else:
        print(f"Worker {record.worker_id} is {state} at {record.url} (model {record.model}, pid {record.pid})")
    return 0
