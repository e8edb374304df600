"""What a pool says of itself: memory, ways to compute, models, workers. Plain values, measured by its own CLI."""

from __future__ import annotations

from dataclasses import dataclass

from llorch.base.ids import ModelId, PoolId, WorkerId

RAM = "ram"


@dataclass(frozen=True, slots=True)
class Bank:
    """One memory that models are loaded into: `ram`, or a GPU's own (`gpu0`)."""

    name: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Place:
    """A backend that works on the pool, and the bank it loads into; `gpu` None: the processor."""

    backend: str
    gpu: int | None
    bank: str


@dataclass(frozen=True, slots=True)
class ModelThere:
    """A downloaded model. `measured_bytes` is what a worker of it was seen to take; 0: none was measured yet."""

    model: ModelId
    size_bytes: int
    measured_bytes: int = 0


@dataclass(frozen=True, slots=True)
class WorkerThere:
    """A worker process of the pool's own records that lives, whether or not it announced itself."""

    worker_id: WorkerId
    model: ModelId
    backend: str
    gpu: int | None = None


@dataclass(frozen=True, slots=True)
class PoolRead:
    """An event: a pool was read, and so it is. Between two commands on that pool, never during one.

    `places` are the backends that can be used, best first. Of a pool that is not `reachable` only `reason` is news;
    `wakeable`: a packet may wake it.
    """

    pool: PoolId
    reachable: bool = True
    wakeable: bool = False
    reason: str = ""
    banks: tuple[Bank, ...] = ()
    places: tuple[Place, ...] = ()
    models: tuple[ModelThere, ...] = ()
    workers: tuple[WorkerThere, ...] = ()
    labels: tuple[str, ...] = ()
