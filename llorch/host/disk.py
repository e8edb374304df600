"""Small files that must never be seen half written: temp + fsync + rename, and locks between processes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llorch.base.errors import HostError, TryLater

_POLL_S = 0.05
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)
_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_COPY_BYTES = 1 << 20


def make_dir(path: Path, mode: int = 0o755) -> None:
    """Create `path` and its parents; HostError in plain words when the system refuses."""
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f"cannot create {path}: {error.strerror}") from error


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace `path` by a file with `data`: a reader, or a power cut, sees the old bytes or the new ones."""
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(fd, "wb") as file:
            fcntl.flock(fd, fcntl.LOCK_EX)  # see is_abandoned
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        sync_dir(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise HostError(f"cannot write {path}: {error.strerror}") from error


def is_abandoned(temporary: Path) -> bool:
    """Was this temporary file of `write_atomic` left by a writer that was killed? A live one holds it locked."""
    try:
        with open(temporary, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # locked, or gone meanwhile
        return False
    return True


def write_json(path: Path, value: object, mode: int = 0o644) -> None:
    """`write_atomic` of indented JSON."""
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode("utf-8"), mode)


def sync_dir(path: Path) -> None:
    """Make a rename in `path` durable; file systems that cannot sync a directory are left alone."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(fd)


def set_aside(path: Path) -> Path:
    """Rename a damaged file to `NAME.damaged-<time>` so that nothing is lost; returns the new path."""
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}")
    path.replace(aside)
    return aside


@contextmanager
def locked(path: Path, *, timeout_s: float = 30.0, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold an exclusive lock on the file `path` (created when missing; freed by the kernel when the process dies).

    `waiting` is called once when another process holds it. Raises TryLater after `timeout_s` seconds.
    """
    make_dir(path.parent)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise HostError(f"cannot open the lock {path}: {error.strerror}") from error
    try:
        _acquire(fd, path, timeout_s, waiting)
        yield
    finally:
        os.close(fd)


def _acquire(fd: int, path: Path, timeout_s: float, waiting: Callable[[], None] | None) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        if waiting is not None:
            waiting()
            waiting = None
        if time.monotonic() >= deadline:
            raise TryLater(f"another llorch process has held {path} for {timeout_s:.0f} s")
        time.sleep(_POLL_S)


def free_bytes(path: Path) -> int:
    """Bytes a user may still write on the file system that holds (or will hold) `path`."""
    facts = os.statvfs(_nearest(path))
    return facts.f_bavail * facts.f_frsize


def total_bytes(path: Path) -> int:
    """Size of the file system that holds (or will hold) `path`."""
    facts = os.statvfs(_nearest(path))
    return facts.f_blocks * facts.f_frsize


def _nearest(path: Path) -> Path:
    """`path`, or the first of its parents that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def size_bytes(path: Path) -> int:
    """Bytes of all regular files below `path`; 0 when there is none."""
    if not path.is_dir():
        return 0
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def link_or_copy(source: Path, target: Path) -> None:
    """`target` becomes the content of `source`: a hard link, else a reflink, else a copy; never a symbolic link.

    Nothing of llorch writes into a finished file, so that a shared one stays as it is.
    """
    try:
        os.link(source, target)
        return
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise HostError(f"cannot create {target}: {error.strerror}") from error
    try:
        with open(source, "rb") as original, open(target, "xb") as copy:
            _clone_or_copy(original.fileno(), copy.fileno())
    except OSError as error:
        target.unlink(missing_ok=True)
        raise HostError(f"cannot copy to {target}: {error.strerror}") from error


def _clone_or_copy(source: int, target: int) -> None:
    try:
        fcntl.ioctl(target, _FICLONE, source)
        return
    except OSError:
        pass  # another file system, or one without reflinks
    while data := os.read(source, _COPY_BYTES):
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
    os.fsync(target)
