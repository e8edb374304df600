"""What the brain wants done, in the imperative. Frozen values, carried out by the driver in the order given.

The driver commits all Persist effects of a turn in one transaction before anything else of that turn leaves the
process; the only exception is a Dispatch with `early` set, whose request may overlap the commit (no byte of its
answer reaches the client before the commit).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from llorch.base.ids import JobId, ModelId, PoolId, SessionId, TenantId, WorkerId
from llorch.core.job import Ending, JobRecord
from llorch.core.policy import Hook
from llorch.core.session import SessionRecord
from llorch.core.tenant import UsageRecord
from llorch.core.worker import WorkerRecord


@dataclass(frozen=True, slots=True)
class WorkerForgotten:
    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class PoolRecord:
    pool_id: PoolId
    draining: bool


@dataclass(frozen=True, slots=True)
class PoolDropped:
    pool_id: PoolId


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of `explain`: what was decided about a job, and why. `reasons` maps a candidate to its refusal."""

    job_id: JobId
    at: float
    kind: str
    chosen: str | None
    reasons: tuple[tuple[str, str], ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class SessionForgotten:
    tenant: TenantId
    session_id: SessionId


Record = (
    JobRecord
    | WorkerRecord
    | WorkerForgotten
    | PoolRecord
    | PoolDropped
    | SessionRecord
    | SessionForgotten
    | UsageRecord
    | Decision
)


@dataclass(frozen=True, slots=True)
class Persist:
    record: Record


@dataclass(frozen=True, slots=True)
class Accept:
    """Answer the client: the job is in. The commit comes first."""

    job_id: JobId
    queue_position: int
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Answer the client with an earlier job of the same idempotency key."""

    job_id: JobId
    of: JobId


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer the client: the job is not taken. `code` is one of base.errors."""

    job_id: JobId
    code: str
    message: str
    retry_after_s: float | None = None
    details: dict[str, object] | None = None


@dataclass(frozen=True, slots=True)
class RefuseWorker:
    """Answer the announcing worker: not taken. `code` is WORKER_ALREADY_REGISTERED; without this effect it is in."""

    worker_id: WorkerId
    url: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class RefuseSession:
    """Answer the client: the session is not opened. `code` is one of base.errors; without this effect it is open."""

    tenant: TenantId
    session_id: SessionId
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class CountTokens:
    """Ask this worker's /tokenize about the job's prompt; answer with TokensCounted within `limit_s`."""

    job_id: JobId
    worker_id: WorkerId
    url: str
    limit_s: float


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send the job to this worker, resuming from whatever the segment holds. `deadline_at` is a `now` value."""

    job_id: JobId
    attempt: int
    worker_id: WorkerId
    url: str
    early: bool
    first_token_timeout_s: float
    stall_timeout_s: float
    deadline_at: float | None


class CancelCause(Enum):
    CLIENT = "client"
    TIMEOUT = "timeout"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class CancelAttempt:
    """Relay no more of this attempt, answer with AttemptStopped at once, and tell the worker to free its slot.

    The worker gets `limit_s` to send its `end`; of a lost one (LOST) nothing is waited for.
    """

    job_id: JobId
    attempt: int
    worker_id: WorkerId
    url: str
    cause: CancelCause
    limit_s: float


@dataclass(frozen=True, slots=True)
class Finish:
    """Close the job's stream with its one terminal event, made from `ending`."""

    job_id: JobId
    ending: Ending
    correlation_id: str = ""


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell attached clients the job's new place in the queue."""

    job_id: JobId
    queue_position: int
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class DrainWorker:
    worker_id: WorkerId
    url: str
    correlation_id: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """Put a question to the policy script: answer with PolicyAnswered or PolicyFailed.

    `arguments` are the function's, by name and in order, as plain data (see hooks).
    """

    ask_id: int
    hook: Hook
    arguments: dict[str, object]


class SpawnCause(Enum):
    """Why a worker is started."""

    JOB = "job"  # jobs wait for its model
    MINIMUM = "minimum"  # the configuration keeps so many
    BACKLOG = "backlog"  # the queue is too long for those there are
    OPERATOR = "operator"  # by hand


@dataclass(frozen=True, slots=True)
class SpawnWorker:
    """Start a worker on a pool: answer with SpawnStarted, SpawnProgressed, and SpawnReady or SpawnFailed.

    Commands on one pool run one after another, in the order given; `limit_s` counts from when this one begins.
    `attempt` counts those for the model since one succeeded; `swaps`: others were unloaded to make room for it.
    """

    pool: PoolId
    model: ModelId
    worker_id: WorkerId
    backend: str
    gpu: int | None
    attempt: int
    cause: SpawnCause
    limit_s: float
    swaps: bool = False


class StopCause(Enum):
    """Why a worker is stopped."""

    IDLE = "idle"  # nobody needed it for its time
    ROOM = "room"  # evicted
    STRAY = "stray"  # it runs, but does not speak to us


@dataclass(frozen=True, slots=True)
class StopWorker:
    """End a worker on its pool: answer with WorkerStopped or StopFailed."""

    pool: PoolId
    worker_id: WorkerId
    model: ModelId
    cause: StopCause
    limit_s: float


@dataclass(frozen=True, slots=True)
class WakePool:
    """Send the packet that wakes a pool, and read its facts again and again until it answers or the limit passes."""

    pool: PoolId
    limit_s: float


@dataclass(frozen=True, slots=True)
class ReadPool:
    """Read a pool as soon as no command runs there; PoolRead follows."""

    pool: PoolId


@dataclass(frozen=True, slots=True)
class TellLoading:
    """Tell attached clients that a worker for their job is on its way; `progress` is 0 to 1."""

    job_id: JobId
    model: ModelId
    progress: float
    eta_s: float | None


Effect = (
    Persist
    | Accept
    | Duplicate
    | Refuse
    | RefuseWorker
    | RefuseSession
    | CountTokens
    | Dispatch
    | CancelAttempt
    | Finish
    | Announce
    | DrainWorker
    | Ask
    | SpawnWorker
    | StopWorker
    | WakePool
    | ReadPool
    | TellLoading
)
