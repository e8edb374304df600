"""The frozen file's runtimes: unpacked once per host and build into the cache, then put on sys.path.

A directory in the cache is complete or absent: it is filled beside its place, checked, and renamed, under a lock. From
sources there is nothing to unpack and every function answers from the package and the interpreter's own libraries.
"""

from __future__ import annotations

import functools
import io
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llorch
from llorch.base.config import cache_dir
from llorch.base.errors import HostError
from llorch.host.process import bound_to, clean_environment, start_time

if TYPE_CHECKING:
    from llorch.host import executable

BUILD_FILE = "llorch-build.json"  # written by build/freeze.py, lies beside the frozen modules
ORIGIN_FILE = "origin"  # in the cached one-folder copy: path of the file that carries the payloads
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Payload:
    """An embedded runtime: entry in the package, unpacked size, hash of the packed bytes."""

    entry: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Build:
    """What the build wrote down about this program."""

    build_id: str
    torch_version: str | None
    backends: tuple[str, ...]
    payloads: Mapping[str, Payload] = field(default_factory=dict)


def is_frozen() -> bool:
    """Do we run from the frozen file (or its one-folder form)?"""
    return bool(getattr(sys, "frozen", False))


def is_one_folder() -> bool:
    """Do we run from a one-folder copy, that is, without a temporary folder?"""
    # Not "beside the executable": a onefile that lies in /tmp unpacks beside itself, too.
    return is_frozen() and Path(_bundle()) == Path(sys.executable).parent / "_internal"


def _bundle() -> str:
    return str(getattr(sys, "_MEIPASS", ""))


@functools.cache
def build() -> Build:
    """This program's build; from sources the id is `source`."""
    if not is_frozen():
        return Build("source", _installed_version("torch"), ("cpu",))
    facts = json.loads((Path(_bundle()) / BUILD_FILE).read_text())
    payloads = {name: Payload(**row) for name, row in facts["payloads"].items()}
    return Build(facts["build_id"], facts["torch"], tuple(facts["backends"]), payloads)


def _installed_version(distribution: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def version_facts() -> dict[str, object]:
    """What `self version --json` prints; imports no runtime."""
    facts = build()
    return {
        "version": llorch.__version__,
        "build_id": facts.build_id,
        "protocol": llorch.PROTOCOL,
        "python": _python_version(),
        "torch": facts.torch_version,
        "backends": list(facts.backends),
    }


def _python_version() -> str:
    return ".".join(map(str, sys.version_info[:3]))


def ensure(name: str) -> Path:
    """Make the runtime `name` (torch, net, engine) importable; its directory. Unpacks on first use.

    Raises HostError with one clear line: no room, noexec, unwritable cache, damaged file.
    """
    if not is_frozen():
        return Path(llorch.__file__).parent.parent
    folder = _override(name) or unpack(name)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    if name == "torch":  # numpy is left out on purpose, 52 MB for nothing we use; torch remarks on it once
        import warnings

        warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
    return folder


def assets_dir() -> Path:
    """The directory of the program's own data, inside the engine runtime: demo model, kernels, dashboard."""
    if not is_frozen():
        return Path(llorch.__file__).parent / "assets"
    return unpack("engine") / "assets"


def kernels_dir() -> Path:
    """The directory of the native kernels' libraries; from sources, where build/kernels.py puts them. May not exist."""
    if not is_frozen():
        return Path(llorch.__file__).parent.parent / "build" / "out" / "kernels"
    return unpack("engine") / "kernels"


def daemon_command(applet: str) -> list[str]:
    """The argv, up to its own arguments, that starts `applet` as a daemon: one process, no temporary folder."""
    if not is_frozen():
        return [sys.executable, "-m", "llorch", applet]
    return [str(one_folder_program()), applet]


def become_one_folder(argv: list[str]) -> None:
    """Called by a daemon in the foreground: replace the onefile's child process by the one-folder program.

    Does not return when it succeeds. From sources and from a one-folder program it does nothing. The onefile's parent
    process stays; when it is killed we are killed, or `kill -9` of the visible pid would leave an orphan on the port.
    """
    if not is_frozen() or is_one_folder():
        return
    from llorch.host import cache

    end_with_launcher()
    try:
        program = one_folder_program()
    except HostError as error:
        cache.tell(f"{error.message}; going on from the temporary folder")
        return
    os.execve(program, argv, clean_environment())


def end_with_launcher() -> None:
    """In the onefile's child process: be killed when the process that people see, its parent, is."""
    if is_frozen() and not is_one_folder():
        bound_to(os.getppid())()


def seconds_since_start() -> float:
    """Since the command was started, by the system's book: what the onefile took to unpack itself is part of it."""
    started = start_time(os.getppid() if is_frozen() and not is_one_folder() else os.getpid())
    assert started is not None, "a running process has a start time"
    clock = time.CLOCK_BOOTTIME if sys.platform.startswith("linux") else time.CLOCK_REALTIME
    return max(0.0, time.clock_gettime(clock) - started)


def one_folder_program() -> Path:
    """The executable of this build's one-folder copy: ourselves, else the one in the cache, made on first use."""
    if is_one_folder():
        return Path(sys.executable)
    folder = _cache() / f"app-{build().build_id}"
    if not folder.is_dir():
        from llorch.host import cache, executable

        package = executable.read_package(executable.running_file())

        def fill(place: Path) -> None:
            executable.write_one_folder(package, place, executable.Payloads.LEAVE_OUT)
            (place / ORIGIN_FILE).write_text(sys.executable)

        cache.place(folder, "program", package.size_bytes, fill)
    return folder / "llorch"


def folders() -> dict[str, Path]:
    """Where each runtime of this build is, or will be, in the cache."""
    return {name: _cache() / f"{name}-{payload.sha256[:16]}" for name, payload in build().payloads.items()}


def unpack(name: str) -> Path:
    """The directory of runtime `name` in the cache, filled on first use."""
    payload = build().payloads.get(name)
    if payload is None:
        raise HostError(f"this build has no {name} runtime")
    folder = folders()[name]
    if not folder.is_dir():
        from llorch.host import cache

        source, entry = _carrier(payload)
        cache.place(folder, f"{name} runtime", payload.size_bytes, lambda place: _unpack(source, entry, payload, place))
    return folder


def _override(name: str) -> Path | None:
    """LLORCH_TORCH names a host's own torch (a site-packages directory) to be used instead of ours."""
    named = os.environ.get("LLORCH_TORCH", "") if name == "torch" else ""
    if not named:
        return None
    if not list(Path(named).glob(f"torch/_C.cpython-{sys.version_info[0]}{sys.version_info[1]}*")):
        raise HostError(
            f"LLORCH_TORCH={named} holds no torch for Python {_python_version()}; unset it to use the embedded one"
        )
    return Path(named)


def _cache() -> Path:
    try:
        return cache_dir(os.environ)
    except RuntimeError:
        raise HostError("no home directory: set LLORCH_CACHE to a writable directory") from None


def _carrier(payload: Payload) -> tuple[Path, executable.Entry]:
    """The file that carries `payload`: ourselves, else the file our cached copy was made from."""
    from llorch.host import executable

    tried = [executable.running_file()]
    origin = Path(sys.executable).parent / ORIGIN_FILE
    if is_one_folder() and origin.is_file():
        tried.append(Path(origin.read_text()))
    for path in tried:
        if path.exists() and (entry := executable.read_package(path).payload(payload.entry)) is not None:
            return path, entry
    raise HostError(f"the runtimes are gone from the cache and {tried[-1]} is not there: copy the llorch file again")


class _Packed(io.RawIOBase):
    """The packed bytes of one entry as a readable file that hashes what it yields."""

    def __init__(self, file: io.FileIO, size_bytes: int) -> None:
        from hashlib import sha256

        super().__init__()
        self._file = file
        self._left = size_bytes
        self.sha256 = sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: self._left]
        count = self._file.readinto(view)
        self._left -= count
        self.sha256.update(view[:count])
        return count


def _unpack(source: Path, entry: executable.Entry, payload: Payload, place: Path) -> None:
    import tarfile

    from backports.zstd import ZstdError, ZstdFile

    damaged = HostError("the llorch file is damaged (its runtime does not match its checksum): copy it again")
    with open(source, "rb", buffering=0) as file:
        file.seek(entry.offset)
        packed = _Packed(file, entry.stored_bytes)
        try:
            with ZstdFile(packed) as plain, tarfile.open(fileobj=plain, mode="r|", bufsize=_READ_BYTES) as archive:
                archive.extractall(place, filter="data")
        except (ZstdError, tarfile.TarError, EOFError) as error:
            raise damaged from error
        while packed.read(_READ_BYTES):
            pass
    if packed.sha256.hexdigest() != payload.sha256:
        raise damaged
