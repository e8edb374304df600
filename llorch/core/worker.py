"""A worker as the brain believes it to be: what it announced, its lease, its load."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from llorch.base.ids import ModelId, PoolId, WorkerId


class WorkerState(Enum):
    READY = "ready"
    DRAINING = "draining"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker announced. `pool` is the host it runs on; `protocol_ok` False means: listed, never used.

    `adopted`: an operator named its URL; it does not know us, so we have to ask it how it is.
    """

    worker_id: WorkerId
    url: str
    model: ModelId
    backend: str
    pool: PoolId
    slots_total: int
    context_length: int
    vram_bytes: int
    version: str
    protocol: int
    protocol_ok: bool = True
    adopted: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """The facts of one heartbeat. `slots_busy` counts sequences on the worker whoever sent them."""

    slots_busy: int = 0
    tokens_per_s: float = 0.0
    vram_bytes: int = 0
    draining: bool = False


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker as it is stored and listed."""

    spec: WorkerSpec
    state: WorkerState
    announced_at: float
    lease_until: float
    load: Load
    slots_used: int = 0
    lost_reason: str | None = None
