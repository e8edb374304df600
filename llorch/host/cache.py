"""Directories in the cache that are complete or absent, however many processes want one at once.

A new one is filled beside its place and renamed, under a lock; what a killed process left is removed by the next.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from llorch.base.errors import HostError

_WORTH_TELLING_BYTES = 50 << 20  # below, it is done before anybody wonders


def place(folder: Path, what: str, size_bytes: int, fill: Callable[[Path], None]) -> None:
    """Have `fill` fill a new directory, which then becomes `folder`; whoever comes second waits for the first.

    `what` names it in messages, `size_bytes` is the room it needs. Raises HostError with one clear line when the cache
    is unwritable, on a noexec file system or full, and whatever `fill` raises; nothing is left behind then.
    """
    base = folder.parent
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(base / f".lock-{folder.name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        need = f"set LLORCH_CACHE to a writable directory with {size_bytes >> 20} MB free"
        raise HostError(f"cannot write the cache {base}: {error.strerror}; {need}") from error
    try:
        _lock(lock, what)
        if folder.is_dir():
            return
        _remove_stale(base, folder.name)
        _check_room(base, what, size_bytes)
        if size_bytes > _WORTH_TELLING_BYTES:
            tell(f"unpacking the {what} into {folder} ({size_bytes >> 20} MB, once per build)")
        _fill_and_rename(folder, what, fill)
    finally:
        os.close(lock)


def _lock(lock: int, what: str) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        tell(f"another process is unpacking the {what}; waiting")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        pass  # a file system without locks: work may be done twice, but the rename stays atomic


def _remove_stale(base: Path, name: str) -> None:
    """What a killed unpacking left; nobody else can be writing it, for we hold the lock."""
    for stale in base.glob(f".tmp-{name}-*"):
        shutil.rmtree(stale, ignore_errors=True)


def stale(base: Path) -> list[Path]:
    """What killed unpackings left and no process works on now."""
    found = []
    for path in sorted(base.glob(".tmp-*")):
        lock = base / f".lock-{path.name.removeprefix('.tmp-').rpartition('-')[0]}"
        if path.is_dir() and not _is_held(lock):
            found.append(path)
    return found


def _is_held(lock: Path) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # another user's: not ours to judge
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _check_room(base: Path, what: str, size_bytes: int) -> None:
    facts = os.statvfs(base)
    if facts.f_flag & os.ST_NOEXEC:
        raise HostError(f"the cache {base} is on a noexec file system; set LLORCH_CACHE to another directory")
    free = facts.f_bavail * facts.f_frsize
    if free < size_bytes * 1.02:
        need = f"the {what} needs {size_bytes >> 20} MB"
        raise HostError(f"the cache {base} has {free >> 20} MB free, {need}; free space or set LLORCH_CACHE")


def _fill_and_rename(folder: Path, what: str, fill: Callable[[Path], None]) -> None:
    place = Path(tempfile.mkdtemp(prefix=f".tmp-{folder.name}-", dir=folder.parent))
    try:
        fill(place)
        place.chmod(0o755)
        place.rename(folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and folder.is_dir():
            return  # no locks here, and another process was faster
        raise HostError(f"unpacking the {what} into {folder.parent} failed: {error.strerror or error}") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def tell(message: str) -> None:
    """One line about what takes time, on stderr; LLORCH_QUIET=1 silences it."""
    if os.environ.get("LLORCH_QUIET", "") in ("", "0"):
        sys.stderr.write(f"llorch: {message}\n")
        sys.stderr.flush()
