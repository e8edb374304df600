"""Asking workers of this host how they are, all at once and never for long."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from llorch.base.errors import LlorchError
from llorch.base.home import Home
from llorch.pool import records
from llorch.pool.records import WorkerRecord

TIMEOUT_S = 2.0


def ask(url: str, timeout_s: float = TIMEOUT_S) -> dict[str, Any] | None:
    """The body of GET /health at `url`; None when there is no healthy answer in time."""
    from llorch.client.worker import WorkerClient  # an empty list need not wait for it

    try:
        return WorkerClient(url).health(timeout_s)
    except LlorchError:
        return None


def ask_all(home: Home, found: Sequence[WorkerRecord]) -> list[tuple[WorkerRecord, str, dict[str, Any]]]:
    """(record, status, health body) of each: Running, Draining, Loading, Silent (alive, no answer) or Dead."""
    answers: dict[str, dict[str, Any] | None] = {}

    def one(record: WorkerRecord) -> None:
        answers[record.worker_id] = ask(record.url)

    alive = [record for record in found if record.is_alive()]
    threads = [threading.Thread(target=one, args=(record,), daemon=True) for record in alive[1:]]
    for thread in threads:
        thread.start()
    if alive:
        one(alive[0])
    for thread in threads:
        thread.join(2 * TIMEOUT_S)
    living = {record.worker_id for record in alive}
    rows = []
    for record in found:
        body = answers.get(record.worker_id)
        rows.append((record, _status(home, record, record.worker_id in living, body), body or {}))
    return rows


def _status(home: Home, record: WorkerRecord, alive: bool, body: dict[str, Any] | None) -> str:
    if not alive:
        return "Dead"
    if body is not None and body.get("worker_id", record.worker_id) == record.worker_id:
        return "Draining" if body.get("state") == "draining" else "Running"
    return "Silent" if records.read_status(home, record.worker_id).get("state") == "ready" else "Loading"
