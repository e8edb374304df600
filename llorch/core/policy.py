"""The seven hook points, as plain data in and plain verdicts out, and the built-in answers.

Views hold no prompt (its length and hash only) and no objects of the brain: the same values can be sent to a script
as `Ask.arguments`, and its answer, re-validated, can stand in for the built-in verdict, which comes inline.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from hashlib import blake2b
from typing import Protocol

from llorch.base.ids import JobId, ModelId, PoolId, SessionId, TenantId, WorkerId
from llorch.core.job import Failure, FailureKind, JobSpec, Priority, Timeouts
from llorch.core.settings import BrainSettings


@dataclass(frozen=True, slots=True)
class TaskView:
    """What a policy may know of a job."""

    job_id: JobId
    model: ModelId | None
    priority: Priority
    tenant: TenantId
    session_id: SessionId | None
    prompt_bytes: int
    prompt_sha256: str
    max_tokens: int | None

    @staticmethod
    def of(spec: JobSpec) -> TaskView:
        return TaskView(
            spec.job_id,
            spec.model,
            spec.priority,
            spec.tenant,
            spec.session_id,
            spec.prompt_bytes,
            spec.prompt_sha256,
            spec.max_tokens,
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that could take the job now. `second_choice`: it failed the job before, or may be too small.

    `prefix_parts`: how much of the prompt's beginning its cache holds. `labels`: its pool's.
    """

    worker_id: WorkerId
    pool: PoolId
    model: ModelId
    slots_free: int
    load: float
    tokens_per_s: float
    preferred: bool
    affine: bool
    prefix_parts: int
    second_choice: bool
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evictable:
    """An idle worker that may be stopped to make room. `resident_s`: how long it has been there."""

    worker_id: WorkerId
    pool: PoolId
    model: ModelId
    memory_bytes: int
    idle_s: float
    resident_s: float


@dataclass(frozen=True, slots=True)
class QueueView:
    depth: int
    capacity: int
    oldest_batch: JobId | None


class Hook(StrEnum):
    """The seven questions, by the names of the functions that a script may define."""

    ADMIT = "admit"
    PRIORITIZE = "prioritize"
    CHOOSE_WORKER = "choose_worker"
    ON_QUEUE_FULL = "on_queue_full"
    EVICT = "evict"
    RETRY = "retry"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Rejection:
    """The policy does not let a job in, and what its client is told; `retry_after_s` None: by the drain rate."""

    message: str = "the admission policy rejected the job"
    retry_after_s: float | None = None


class WhenFull(Enum):
    REJECT = "reject"
    DROP_OLDEST_BATCH = "drop_oldest_batch"


class Policy(Protocol):
    """What users may decide themselves; each answer is checked against the state of the moment."""

    def admit(self, task: TaskView) -> Rejection | None:
        """May the job in? None: yes."""
        ...

    def prioritize(self, task: TaskView) -> float:
        """Seconds of handicap: the job queues as if it had come that much later."""
        ...

    def choose_worker(self, task: TaskView, candidates: list[Candidate]) -> WorkerId:
        """One of the candidates (never empty, best first)."""
        ...

    def on_queue_full(self, task: TaskView, queue: QueueView) -> WhenFull:
        """Whether this arrival is rejected or the oldest batch job makes room."""
        ...

    def evict(self, idle: list[Evictable], need_bytes: int) -> list[WorkerId]:
        """Idle workers to stop, in this order, until `need_bytes` are free."""
        ...

    def retry(self, task: TaskView, failure: Failure, failures: int) -> float | None:
        """Seconds until the next attempt after the n-th failure, or None: give up."""
        ...

    def timeout(self, task: TaskView) -> Timeouts:
        """The limits of this job."""
        ...


class BuiltinPolicy:
    """What llorch does when nobody says otherwise."""

    def __init__(self, settings: BrainSettings) -> None:
        self._settings = settings

    def admit(self, task: TaskView) -> Rejection | None:
        return None

    def prioritize(self, task: TaskView) -> float:
        """Interactive before batch, but a batch job that waited `batch_ageing_s` goes before newcomers."""
        return self._settings.batch_ageing_s if task.priority is Priority.BATCH else 0.0

    def choose_worker(self, task: TaskView, candidates: list[Candidate]) -> WorkerId:
        return candidates[0].worker_id

    def on_queue_full(self, task: TaskView, queue: QueueView) -> WhenFull:
        return WhenFull.REJECT

    def evict(self, idle: list[Evictable], need_bytes: int) -> list[WorkerId]:
        """The order offered: least recently used first."""
        return [candidate.worker_id for candidate in idle]

    def retry(self, task: TaskView, failure: Failure, failures: int) -> float | None:
        """At once elsewhere when the worker is gone; else exponential, with jitter, bounded."""
        if failures >= self._settings.attempts_max:
            return None
        if failures == 1 and failure.kind in (FailureKind.REFUSED, FailureKind.BROKEN):
            return 0.0
        ceiling = min(self._settings.backoff_max_s, self._settings.backoff_first_s * 2.0 ** (failures - 1))
        return ceiling * (0.5 + 0.5 * jitter(task.job_id, failures))

    def timeout(self, task: TaskView) -> Timeouts:
        settings = self._settings
        interactive = task.priority is Priority.INTERACTIVE
        return Timeouts(
            settings.queue_timeout_interactive_s if interactive else settings.queue_timeout_batch_s,
            settings.first_token_timeout_s,
            settings.stall_timeout_s,
            None,
        )


def jitter(job_id: JobId, failures: int) -> float:
    """0..1, the same for the same job and attempt: chance that replays."""
    digest = blake2b(f"{job_id}/{failures}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") / 2**32
