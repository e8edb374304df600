"""What the disk allows: SQLite alone, one writer thread that commits what waits in one transaction; no HTTP.

WAL and synchronous FULL, as our store has them; a row has as many bytes as what a job leaves in the store, in one table
with one index. A process of its own, see child.py.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import sys
import threading
import uuid
from pathlib import Path
from time import perf_counter
from typing import Any

from peers import child, loop
from peers.figures import percentile

SCHEMA = "CREATE TABLE job (row INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT NOT NULL UNIQUE, record BLOB NOT NULL)"
INSERT = "INSERT INTO job (job_id, record) VALUES (?, ?)"
Item = tuple[str, bytes, "asyncio.Future[None]"]


class Writer:
    """The thread that owns the connection."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode = WAL", "synchronous = FULL"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.execute(SCHEMA)
        self.waiting: queue.Queue[Item] = queue.Queue()
        threading.Thread(target=self._write, daemon=True).start()

    def _write(self) -> None:
        while True:
            group = [self.waiting.get()]
            while not self.waiting.empty():
                group.append(self.waiting.get())
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(INSERT, [item[:2] for item in group])
            self._connection.execute("COMMIT")
            group[0][2].get_loop().call_soon_threadsafe(_settle, [future for _, _, future in group])


def _settle(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        future.set_result(None)


async def _commit(writer: Writer, submitters: int, requests: int, size: int) -> dict[str, Any]:
    running = asyncio.get_running_loop()
    latencies: list[float] = []
    left = requests

    async def submit() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            began, future = perf_counter(), running.create_future()
            writer.waiting.put((f"job-{uuid.uuid4()}", bytes(size), future))
            await future
            latencies.append(perf_counter() - began)

    began = perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(submitters):
            group.create_task(submit())
    return {
        "per_s": requests / (perf_counter() - began),
        "p50_ms": percentile(latencies, 0.5) * 1000,
        "p99_ms": percentile(latencies, 0.99) * 1000,
    }


def load() -> tuple[dict[str, Any], dict[str, child.Measure]]:
    """The database named on the command line, made anew."""
    writer = Writer(Path(sys.argv[1]))
    return {"sqlite": sqlite3.sqlite_version}, {"commit": lambda **given: loop.run(_commit(writer, **given))}


if __name__ == "__main__":
    child.serve(load)
