"""Has a file changed? Its mark is another then."""

from __future__ import annotations

from pathlib import Path

Mark = tuple[int, int, int]


def file_mark(path: Path) -> Mark | None:
    """Time of change, size and inode; None when the file cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
