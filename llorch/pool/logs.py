"""`worker logs`: the end of a worker's log, and what is added to it, over rotation and restarts."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from llorch.base import ids, log_file
from llorch.base.errors import LlorchError, NotFound
from llorch.base.home import Home, find_home
from llorch.pool import records
from llorch.pool.terminal import Terminal

_POLL_S = 0.2
_READ_BYTES = 1 << 16


def logs_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("worker", metavar="ID", help="a worker's id; a stopped one's log is kept for a while")
    parser.add_argument("-f", "--follow", action="store_true", help="go on printing until the worker ends, or Ctrl-C")
    parser.add_argument("-F", "--follow-restarts", action="store_true", help="as -f, but wait for its next start, too")
    parser.add_argument("-n", "--lines", type=int, default=100, metavar="N", help="lines from the end (default 100)")


def logs(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """JSON: one {"line": text} per line."""
    home = find_home(os.environ)
    worker_id, path = _find(home, arguments.worker)
    show: Callable[[str], None] = _json_line if arguments.json else print
    following = arguments.follow or arguments.follow_restarts
    with contextlib.closing(_Reader(path)) as reader:
        for line in _last_lines(path, reader.position, arguments.lines):
            show(line)
        sys.stdout.flush()
        if following:
            _follow(reader, lambda: arguments.follow_restarts or _is_alive(home, worker_id), show)
    return 0


def _json_line(text: str) -> None:
    print(json.dumps({"line": text}))


def _find(home: Home, worker_id: str) -> tuple[str, Path]:
    """The worker's full id and its log."""
    try:
        worker_id = records.get(home, worker_id).worker_id
    except LlorchError:
        if not ids.WORKER_ID.fullmatch(worker_id) or not records.log_path(home, worker_id).is_file():
            raise
    path = records.log_path(home, worker_id)
    if not path.is_file():
        raise NotFound(f"worker {worker_id} has no log")
    return worker_id, path


def _is_alive(home: Home, worker_id: str) -> bool:
    """Does the worker run now: the same process as before or, after a restart, another one?"""
    return any(record.worker_id == worker_id and record.is_alive() for record in records.load_all(home))


def _last_lines(path: Path, end: int, lines: int) -> list[str]:
    """The last lines before byte `end`; the newest rotated file helps out when the log has just begun."""
    found = records.tail(path, lines, before=end)
    if len(found) < lines:
        found = [*records.tail(log_file.rotated(path, 1), lines - len(found)), *found]
    return found


class _Reader:
    """Reads on in a log from its end of now, through every rotation."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115  (closed by `close`)
        self.position = self._file.seek(0, os.SEEK_END)

    def read(self) -> bytes:
        """More bytes; none when there are none yet."""
        while not (data := self._file.read(_READ_BYTES)):
            newer = self._next()
            if newer is None:
                return b""
            # Between our last read and the rotation something may have been written.
            if data := self._file.read(_READ_BYTES):
                newer.close()
                return data
            self._file.close()
            self._file = newer
        return data

    def _next(self) -> BinaryIO | None:
        """The file that was begun after ours; None while ours is the newest."""
        ours = os.fstat(self._file.fileno())
        for number in range(log_file.KEPT + 1):
            try:
                stat = log_file.rotated(self._path, number).stat()
            except FileNotFoundError:
                continue
            if os.path.samestat(stat, ours):
                return self._open(number - 1) if number > 0 else None
        return self._open(0)  # ours is so old that it was removed

    def _open(self, number: int) -> BinaryIO | None:
        try:
            return open(log_file.rotated(self._path, number), "rb")
        except FileNotFoundError:
            return None  # rotated once more at this moment: look again

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _follow(reader: _Reader, goes_on: Callable[[], bool], show: Callable[[str], None]) -> None:
    """Print what is added, until there will be no more and everything is read."""
    rest = b""
    while True:
        more_may_come = goes_on()
        data = reader.read()
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            show(line.decode("utf-8", "replace"))
        if lines:
            sys.stdout.flush()
        if not data:
            if not more_may_come:
                break
            time.sleep(_POLL_S)
    if rest:
        show(rest.decode("utf-8", "replace"))
