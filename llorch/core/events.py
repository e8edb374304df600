"""What can happen to the brain, in the past tense. Frozen values; the shell makes them, `Brain.decide` eats them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llorch.base.ids import JobId, ModelId, PoolId, SessionId, TenantId, WorkerId
from llorch.core.demand_settings import DemandRead
from llorch.core.hooks import Answer
from llorch.core.job import Failure, JobRecord, JobSpec, Result
from llorch.core.policy import Hook
from llorch.core.pool_facts import PoolRead
from llorch.core.session import SessionLimits, SessionRecord
from llorch.core.settings import BrainSettings
from llorch.core.tenant import TenantLimits, UsageRecord
from llorch.core.worker import Load, WorkerRecord, WorkerSpec


@dataclass(frozen=True, slots=True)
class JobSubmitted:
    spec: JobSpec


@dataclass(frozen=True, slots=True)
class TokensCounted:
    """Answer to CountTokens; `prompt_tokens` None: the worker could not say, dispatch will check."""

    job_id: JobId
    prompt_tokens: int | None


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """By the client's wish (a cancel call)."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class ClientDisconnected:
    """The connection that carried the POST of an attached job is gone."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class ClientAttached:
    """Somebody reads this job's events (again)."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """The worker accepted the attempt and sent `started`."""

    job_id: JobId
    attempt: int


@dataclass(frozen=True, slots=True)
class FirstTokenSeen:
    """The first token frame of this attempt passed the relay."""

    job_id: JobId
    attempt: int


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """The worker sent `end`."""

    job_id: JobId
    attempt: int
    result: Result


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """The attempt is over without `end`; `frames_relayed` counts the job's token frames over all attempts."""

    job_id: JobId
    attempt: int
    failure: Failure
    frames_relayed: int
    tokens_relayed: int


@dataclass(frozen=True, slots=True)
class AttemptStopped:
    """The relay of an attempt that was to be stopped is shut: the job's client has got `tokens_relayed` in all.

    The attempt itself may still be under way on its worker; its end is told by the other events.
    """

    job_id: JobId
    attempt: int
    tokens_relayed: int


@dataclass(frozen=True, slots=True)
class JobNotStored:
    """The commit that should have let this job in failed, and its client was told so: it never was."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class WorkerAnnounced:
    spec: WorkerSpec


@dataclass(frozen=True, slots=True)
class HeartbeatReceived:
    """`prefixes` are the digests of the beginnings of prompts that the worker's cache holds."""

    worker_id: WorkerId
    load: Load
    prefixes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class WorkerDrainRequested:
    worker_id: WorkerId
    correlation_id: str = ""


@dataclass(frozen=True, slots=True)
class WorkerForgetRequested:
    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class PoolRegistered:
    """A host that may run workers; placement refuses draining pools."""

    pool_id: PoolId
    draining: bool = False


@dataclass(frozen=True, slots=True)
class PoolForgotten:
    pool_id: PoolId


@dataclass(frozen=True, slots=True)
class CatalogRead:
    """What the host's catalog says now: models that are known even without a worker, and other names of models."""

    known_models: frozenset[ModelId]
    aliases: tuple[tuple[str, ModelId], ...] = ()


@dataclass(frozen=True, slots=True)
class DrainStarted:
    """orchestratord itself takes no new jobs; running ones finish."""


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Nothing but time: leases, deadlines, back-offs, ageing."""


@dataclass(frozen=True, slots=True)
class Relayed:
    """What a job's client has got over all attempts, and the model it was told."""

    frames: int
    tokens: int
    model: ModelId | None = None


@dataclass(frozen=True, slots=True)
class Restarted:
    """The stored state at start: live jobs in order of acceptance, known workers (all to re-announce), pools.

    `relayed` holds the jobs whose clients were told `started`, with or without tokens since.
    `keys` are the newest idempotency keys, oldest first, of jobs that have ended as well as of live ones.
    """

    jobs: tuple[JobRecord, ...]
    workers: tuple[WorkerRecord, ...]
    pools: tuple[PoolRegistered, ...]
    relayed: dict[JobId, Relayed]
    keys: tuple[tuple[TenantId, str, JobId], ...] = ()
    sessions: tuple[SessionRecord, ...] = ()
    usage: tuple[UsageRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class TenantsRead:
    """What the configuration says of tenants now; who is not named has the `default` limits."""

    limits: Mapping[TenantId, TenantLimits]
    default: TenantLimits = field(default_factory=TenantLimits)


@dataclass(frozen=True, slots=True)
class SettingsRead:
    """The operator's settings are these from now on; a job that was accepted keeps the limits it was accepted with."""

    settings: BrainSettings


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A client declares a session with limits of its own; one that is open already gets the new limits."""

    tenant: TenantId
    session_id: SessionId
    limits: SessionLimits


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """A client is done with a session: nothing of it is remembered; its jobs go on."""

    tenant: TenantId
    session_id: SessionId


@dataclass(frozen=True, slots=True)
class PolicyLoaded:
    """A policy script answers these hooks from now on (none: it is gone); `name` is told by `explain`."""

    hooks: frozenset[Hook]
    name: str = ""


@dataclass(frozen=True, slots=True)
class PolicyAnswered:
    """The script's answer to Ask, read by `hooks.read_answer`; looked at again in the state of this moment."""

    ask_id: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class PolicyFailed:
    """The script gave no answer that counts: the built-in one stands in. `reason` is told by `explain`."""

    ask_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class ZoneChanged:
    """How far local time is ahead of UTC now; scripts are told the hour by it."""

    utc_offset_s: int


@dataclass(frozen=True, slots=True)
class SpawnRequested:
    """An operator wants a worker of this model on this pool; nothing else is decided about it."""

    worker_id: WorkerId
    pool: PoolId
    model: ModelId
    backend: str
    gpu: int | None = None


@dataclass(frozen=True, slots=True)
class SpawnStarted:
    """The command of a SpawnWorker runs on its pool."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class SpawnProgressed:
    """A worker has loaded this share of its model, 0 to 1."""

    worker_id: WorkerId
    progress: float


@dataclass(frozen=True, slots=True)
class SpawnReady:
    """The command says that the worker serves; it announces itself, too, sooner or later than this."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """No worker came of a SpawnWorker; `code` is one of base.errors."""

    worker_id: WorkerId
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerStopped:
    """The process of a StopWorker is gone, or was already."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class StopFailed:
    """It could not be told to stop, or does not."""

    worker_id: WorkerId
    reason: str


Event = (
    JobSubmitted
    | TokensCounted
    | CancelRequested
    | ClientDisconnected
    | ClientAttached
    | AttemptStarted
    | FirstTokenSeen
    | AttemptEnded
    | AttemptFailed
    | AttemptStopped
    | JobNotStored
    | WorkerAnnounced
    | HeartbeatReceived
    | WorkerDrainRequested
    | WorkerForgetRequested
    | PoolRegistered
    | PoolForgotten
    | CatalogRead
    | DrainStarted
    | TimePassed
    | Restarted
    | TenantsRead
    | SettingsRead
    | SessionOpened
    | SessionClosed
    | PolicyLoaded
    | PolicyAnswered
    | PolicyFailed
    | ZoneChanged
    | DemandRead
    | PoolRead
    | SpawnRequested
    | SpawnStarted
    | SpawnProgressed
    | SpawnReady
    | SpawnFailed
    | WorkerStopped
    | StopFailed
)
