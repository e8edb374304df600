"""A pool's `status --json` as the brain's facts; whatever is not as it should be is left out. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llorch.base.ids import MODEL_ID, WORKER_ID, ModelId, PoolId, WorkerId
from llorch.core.pool_facts import RAM, Bank, ModelThere, Place, PoolRead, WorkerThere

ROWS_MAX = 1000
# Best first: a job is served where it is served fastest.
BACKENDS = ("cuda", "metal", "cpu")


def unreachable(pool: PoolId, reason: str, *, wakeable: bool) -> PoolRead:
    """A pool that could not be asked."""
    return PoolRead(pool, reachable=False, wakeable=wakeable, reason=reason)


def facts_of(
    pool: PoolId,
    body: Mapping[str, Any],
    labels: tuple[str, ...],
    *,
    wakeable: bool,
    memory_max_bytes: int | None = None,
) -> PoolRead:
    """What a pool printed. Sizes are bytes; `memory_max_bytes` is all that workers there may take of main memory."""
    gpus = [row for row in _rows(body, "gpus") if isinstance(row.get("index"), int)]
    banks = [_main_memory(_object(body.get("memory")), memory_max_bytes)]
    banks += [
        Bank(f"gpu{row['index']}", _size(row, "memory_total_bytes"), _size(row, "memory_free_bytes")) for row in gpus
    ]
    works = {row.get("name") for row in _rows(body, "backends") if row.get("available") is True}
    places = [place for backend in BACKENDS if backend in works for place in _places(backend, gpus)]
    return PoolRead(
        pool,
        wakeable=wakeable,
        banks=tuple(banks),
        places=tuple(places),
        models=tuple(_models(body)),
        workers=tuple(_workers(body)),
        labels=labels,
    )


def _main_memory(memory: Mapping[str, Any], max_bytes: int | None) -> Bank:
    """As much of it as is ours: with a limit, that less what workers hold, whoever spawned them."""
    total, free = _size(memory, "total_bytes"), _size(memory, "available_bytes")
    if max_bytes is None:
        return Bank(RAM, total, free)
    return Bank(RAM, min(total, max_bytes), max(0, min(free, max_bytes - _size(memory, "workers_bytes"))))


def _places(backend: str, gpus: list[Mapping[str, Any]]) -> list[Place]:
    """A GPU of its own memory each; Apple's shares the main memory."""
    if backend == "cuda":
        return [Place(backend, row["index"], f"gpu{row['index']}") for row in gpus]
    return [Place(backend, 0 if backend == "metal" else None, RAM)]


def _models(body: Mapping[str, Any]) -> Iterator[ModelThere]:
    for row in _rows(body, "models"):
        name = row.get("id")
        if isinstance(name, str) and MODEL_ID.fullmatch(name):
            yield ModelThere(ModelId(name), _size(row, "size_bytes"), _size(row, "measured_bytes"))


def _workers(body: Mapping[str, Any]) -> Iterator[WorkerThere]:
    """Those whose process lives."""
    for row in _rows(body, "workers"):
        name, model, gpu = row.get("worker_id"), row.get("model"), row.get("gpu")
        alive = row.get("status") != "Dead"
        if alive and isinstance(name, str) and WORKER_ID.fullmatch(name) and isinstance(model, str):
            backend = str(row.get("backend"))
            yield WorkerThere(WorkerId(name), ModelId(model), backend, gpu if isinstance(gpu, int) else None)


def _rows(body: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    rows = body.get(name)
    return [row for row in rows[:ROWS_MAX] if isinstance(row, dict)] if isinstance(rows, list) else []


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _size(row: Mapping[str, Any], name: str) -> int:
    value = row.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
