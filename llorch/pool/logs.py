"""`worker logs`: the end of a worker's log, and what is added to it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from llorch.base import ids
from llorch.base.errors import LlorchError, NotFound
from llorch.base.home import Home, find_home
from llorch.pool import records
from llorch.pool.records import WorkerRecord
from llorch.pool.terminal import Terminal

_POLL_S = 0.2


def logs_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("worker", metavar="ID", help="a worker's id; a stopped one's log is kept for a while")
    parser.add_argument("-f", "--follow", action="store_true", help="go on printing until the worker ends, or Ctrl-C")
    parser.add_argument("-n", "--lines", type=int, default=100, metavar="N", help="lines from the end (default 100)")


def logs(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """JSON: one {"line": text} per line."""
    home = find_home(os.environ)
    path, record = _find(home, arguments.worker)
    show: Callable[[str], None] = _json_line if arguments.json else print
    start = path.stat().st_size
    for line in records.tail(path, arguments.lines):
        show(line)
    if arguments.follow:
        sys.stdout.flush()
        _follow(path, start, record, show)
    return 0


def _json_line(text: str) -> None:
    print(json.dumps({"line": text}))


def _find(home: Home, worker_id: str) -> tuple[Path, WorkerRecord | None]:
    """The log and, while there is one, the record."""
    try:
        record: WorkerRecord | None = records.get(home, worker_id)
    except LlorchError:
        record = None
        if not ids.WORKER_ID.fullmatch(worker_id) or not records.log_path(home, worker_id).is_file():
            raise
    path = records.log_path(home, record.worker_id if record else worker_id)
    if not path.is_file():
        raise NotFound(f"worker {worker_id} has no log")
    return path, record


def _follow(path: Path, start: int, record: WorkerRecord | None, show: Callable[[str], None]) -> None:
    """Print lines added after byte `start` until the worker is dead and everything is read."""
    with open(path, "rb") as file:
        file.seek(start)
        rest = b""
        while True:
            alive = record is not None and record.is_alive()
            data = file.read(1 << 16)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                show(line.decode("utf-8", "replace"))
            if lines:
                sys.stdout.flush()
            if not data:
                if not alive:
                    break
                time.sleep(_POLL_S)
        if rest:
            show(rest.decode("utf-8", "replace"))
