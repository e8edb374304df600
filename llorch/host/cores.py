"""How many of this host's processors a worker may keep busy now: they are divided among the workers that compute.

Workers of one user see each other through a small shared file in memory: each owns an entry and writes the time of its
latest step there. One that is idle, stopped or dead stops writing and so gives its part back within a second.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
ENTRIES = 128
COMPUTING_S = 1.0
FORGOTTEN_S = 60.0
_ENTRY = struct.Struct("<Qd")  # whose it is (0: nobody's), monotonic seconds of the latest step
SIZE_BYTES = ENTRIES * _ENTRY.size


class Cores:
    """This worker's entry; without a file to share (None, or one that cannot be used) it believes to be alone."""

    def __init__(self, path: Path | None, now: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._now = now
        self._name = int.from_bytes(os.urandom(8), "little") | 1
        self._pages: mmap.mmap | None = None
        self._at = 0
        self._join()

    def share(self, threads: int) -> int:
        """Of `threads`, those that may compute in the step that begins now; at least one."""
        if self._pages is not None and _ENTRY.unpack_from(self._pages, self._at)[0] != self._name:
            self._join()  # it was idle for so long that another worker has taken the entry over
        if self._pages is None:
            return threads
        now = self._now()
        _ENTRY.pack_into(self._pages, self._at, self._name, now)
        # CLOCK_MONOTONIC is one clock for all processes of a host; a time ahead of it is from before a restart.
        computing = sum(0 <= now - at < COMPUTING_S for _, at in _ENTRY.iter_unpack(self._pages[:]))
        return max(1, threads // max(1, computing))

    def _join(self) -> None:
        """Take an entry that nobody uses, one process at a time; stay alone when there is none."""
        self._pages = None
        descriptor = None if self._path is None else _open(self._path)
        if descriptor is None:
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.posix_fallocate(descriptor, 0, SIZE_BYTES)  # else a full /dev/shm kills who writes to it
            self._claim(mmap.mmap(descriptor, SIZE_BYTES))
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # the mapping keeps a duplicate, so closing would not unlock
        except OSError:
            pass  # no room in the shared memory: alone
        finally:
            os.close(descriptor)

    def _claim(self, pages: mmap.mmap) -> None:
        now = self._now()
        for index, (name, at) in enumerate(_ENTRY.iter_unpack(pages[:])):
            if name == 0 or not 0 <= now - at < FORGOTTEN_S:
                self._pages, self._at = pages, index * _ENTRY.size
                _ENTRY.pack_into(pages, self._at, self._name, now - COMPUTING_S)
                return


def shared_path() -> Path | None:
    """The file of this user's workers on this host; None where the system has no memory to share by name."""
    return SHARED_MEMORY / f"llorch-{os.getuid()}" if SHARED_MEMORY.is_dir() else None


def _open(path: Path) -> int | None:
    """The file's descriptor, made when there is none; None unless it is ours alone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    facts = os.fstat(descriptor)
    if facts.st_uid == os.getuid() and not facts.st_mode & 0o077:
        return descriptor
    os.close(descriptor)
    return None
