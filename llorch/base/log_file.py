"""A daemon's log as a file of bounded size: FILE, and before it FILE.1, FILE.2, … the older the higher.

The daemon rotates its own file, for nothing else of ours stays running. stdout and stderr are moved along, so that
tracebacks and what native libraries print land there, too.
"""

from __future__ import annotations

import os
from pathlib import Path

from llorch.base.errors import HostError

SIZE_MAX_BYTES = 16 << 20
KEPT = 3


def rotated(path: Path, number: int) -> Path:
    """Where the `number`-th newest rotated file is; 0 is the file itself."""
    return path if number == 0 else path.with_name(f"{path.name}.{number}")


class LogFile:
    """One log that only this process writes."""

    def __init__(self, path: Path, *, size_max_bytes: int = SIZE_MAX_BYTES, kept: int = KEPT) -> None:
        self._path = path
        self._size_max_bytes = size_max_bytes
        self._kept = kept

    def take_over(self) -> None:
        """Make it this process's stdout and stderr. Raises HostError when it cannot be opened."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise HostError(f"cannot write the log {self._path}: {error.strerror}") from None
        self.rotate_when_full()

    def rotate_when_full(self) -> None:
        """Begin a new file when this one has reached its size."""
        if os.fstat(2).st_size < self._size_max_bytes:
            return
        try:
            for number in range(self._kept, 0, -1):
                if (older := rotated(self._path, number - 1)).exists():
                    older.replace(rotated(self._path, number))
            self._open()
        except OSError:
            return  # a full disk or a directory taken away: what is said still goes to the file that is open

    def _open(self) -> None:
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.dup2(fd, 1)
            os.dup2(fd, 2)
        finally:
            os.close(fd)
