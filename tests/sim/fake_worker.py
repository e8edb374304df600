"""A worker of the simulated world."""

from __future__ import annotations

from dataclasses import dataclass, field

from llorch.base.ids import JobId
from llorch.core.worker import WorkerSpec


@dataclass
class FakeWorker:
    """What really runs on a host; the brain only hears of it."""

    spec: WorkerSpec
    alive: bool = True
    hung_until: float = 0.0
    silent_until: float = 0.0
    draining: bool = False
    liar: bool = False
    refuses: bool = False
    mute: bool = False
    running: dict[tuple[JobId, int], int] = field(default_factory=dict)
    incarnation: int = 0
