"""A job: the orchestrator's record of one client request, and its states (transitions has how they change)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from llorch.base import errors
from llorch.base.ids import DEFAULT_TENANT, JobId, ModelId, SessionId, TenantId, WorkerId


class JobState(Enum):
    """Where a job is. ADMITTING is not durable: nothing was promised yet."""

    ADMITTING = "admitting"
    QUEUED = "queued"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """No event changes the job any more."""
        return self in (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)


class Priority(Enum):
    INTERACTIVE = "interactive"
    BATCH = "batch"


class OnDisconnect(Enum):
    """What a dropped client connection means for the job."""

    CANCEL = "cancel"
    KEEP = "keep"


class FailureKind(Enum):
    """Why an attempt failed, as the shell saw it."""

    REFUSED = "refused"  # no connection to the worker, or what answers there is none of ours
    BUSY = "busy"  # the worker has no slot, or drains
    REJECTED = "rejected"  # the worker says that the request is bad: the same anywhere
    BROKEN = "broken"  # the stream broke off without a terminal event
    STALLED = "stalled"  # nothing came for the stall time
    FAILED = "failed"  # the worker sent an error event, or answered that it failed


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt: its kind, and the worker's own code and message where it gave one."""

    kind: FailureKind
    code: str = errors.WorkerLost.code
    message: str = "the worker was lost"
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Wishes:
    """The client's placement wishes."""

    pin_pool: str | None = None
    pin_worker: str | None = None
    prefer_pools: tuple[str, ...] = ()
    avoid_pools: tuple[str, ...] = ()
    allow_fallback: bool = True


NO_WISHES = Wishes()


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a client asked for, checked and with its seed minted; never changes.

    `payload` is the execute body without job_id and resume, opaque to the brain; `messages` counts those of a chat, 0
    for a plain prompt. `prefixes` are the digests of the prompt's beginnings, the shortest first; like the payload
    they are not kept once the job has ended. `max_tokens` None means min(256, context). Durations count from
    acceptance.
    """

    job_id: JobId
    payload: bytes
    prompt_sha256: str
    prompt_bytes: int
    seed: int
    messages: int = 0
    prefixes: tuple[str, ...] = ()
    model: ModelId | None = None
    prompt_tokens: int | None = None
    max_tokens: int | None = None
    priority: Priority = Priority.INTERACTIVE
    tenant: TenantId = DEFAULT_TENANT
    session_id: SessionId | None = None
    deadline_s: float | None = None
    timeout_s: float | None = None
    wishes: Wishes = NO_WISHES
    idempotency_key: str | None = None
    on_disconnect: OnDisconnect = OnDisconnect.KEEP
    attached: bool = False
    correlation_id: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished attempt reported; the fields of the `end` event."""

    stop_reason: str
    tokens_out: int = 0
    prompt_tokens: int | None = None
    decode_time_ms: int = 0
    ttft_ms: int | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended: with a result (completed, cancelled) or with an error code (failed)."""

    state: JobState
    result: Result | None = None
    error_code: str | None = None
    error_message: str | None = None
    retriable: bool = False
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; `queue_s` counts from joining the queue, `total_s` from acceptance; None: no limit."""

    queue_s: float | None
    first_token_s: float
    stall_s: float
    total_s: float | None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as it is stored: everything needed to carry on after a restart. Times are `now` values (see brain).

    `handicap_s` and `timeouts` are what a policy script said of them; None: the built-in policy has the word.
    """

    spec: JobSpec
    state: JobState
    accepted_at: float
    sequence: int
    attempts: int = 0
    worker_id: WorkerId | None = None
    model: ModelId | None = None
    queued_since: float = 0.0
    dispatched_at: float | None = None
    started_at: float | None = None
    first_token_at: float | None = None
    ended_at: float | None = None
    cancel_requested: bool = False
    ending: Ending | None = None
    handicap_s: float | None = None
    timeouts: Timeouts | None = None
