"""The conductor: one event in, a list of effects out. Holds the state; the deciding is done in the rooms beside it.

Pure: no I/O, no clock, no randomness. `now` is seconds that never go backwards inside a process and are comparable
across restarts (the shell sees to that), so records keep it as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from llorch.base.ids import JobId, WorkerId
from llorch.core.effects import Effect, PoolRecord
from llorch.core.events import Event
from llorch.core.job import JobRecord
from llorch.core.settings import BrainSettings
from llorch.core.worker import WorkerRecord


class Place(NamedTuple):
    """A queued job's place: how many wait ahead of it, and seconds until it starts (None: not known yet)."""

    queue_position: int
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class Counts:
    """`workers` are ready ones; `pools` are registered hosts plus hosts with live workers."""

    queue_depth: int
    running: int
    workers: int
    pools: int


class Brain:
    """Every decision about jobs and workers. Start with `Restarted` when there is stored state."""

    def __init__(self, settings: BrainSettings | None = None) -> None:
        self.settings = settings or BrainSettings()

    def decide(self, event: Event, now: float) -> list[Effect]:
        """What follows from this event, in the order to be carried out. An illegal event changes nothing: []."""
        raise NotImplementedError

    def next_wakeup(self) -> float | None:
        """The `now` at which to feed TimePassed at the latest; None: nothing is waiting for time."""
        raise NotImplementedError

    def job(self, job_id: JobId) -> JobRecord | None:
        """The record of a live job (queued to cancelling); None once it ended: then the store knows it."""
        raise NotImplementedError

    def position(self, job_id: JobId) -> Place | None:
        """The place of a queued job; None when it is not queued."""
        raise NotImplementedError

    def worker(self, worker_id: WorkerId) -> WorkerRecord | None:
        """One worker, lost ones included; None: never announced, so its heartbeat deserves a 404 (announce again)."""
        raise NotImplementedError

    def workers(self) -> list[WorkerRecord]:
        """All workers by id, lost ones included until they are forgotten."""
        raise NotImplementedError

    def pools(self) -> list[PoolRecord]:
        """Registered hosts plus hosts with live workers, by id."""
        raise NotImplementedError

    def counts(self) -> Counts:
        """The numbers of `/health`."""
        raise NotImplementedError
