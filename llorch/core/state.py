"""Everything the brain remembers, and the two ways a room of the brain speaks: `keep` a record, `do` an effect.

Within a turn a record kept twice is persisted once, as it is in the end; all Persist effects come first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llorch.base.ids import JobId, ModelId, SessionId, TenantId, WorkerId
from llorch.core.accounts import Accounts
from llorch.core.effects import (
    Decision,
    Effect,
    Persist,
    PoolDropped,
    PoolRecord,
    SessionForgotten,
    WorkerForgotten,
)
from llorch.core.fleet import Fleet, Seat, Worker
from llorch.core.job import JobRecord, Timeouts
from llorch.core.learned import RetryBudget, Speeds
from llorch.core.policy import Hook, Policy, Rejection, TaskView
from llorch.core.pool_book import PoolBook
from llorch.core.queue import Queue, Shape
from llorch.core.session import SessionRecord
from llorch.core.settings import BrainSettings
from llorch.core.tenant import UsageRecord
from llorch.core.timers import Timers
from llorch.core.transitions import Happening, after

if TYPE_CHECKING:
    from llorch.core.asking import Question


@dataclass(slots=True)
class LiveJob:
    """A job while it lives: its record, and what need not survive a restart.

    `context_need` is what a worker's context must hold, 0 when unknown; `need_exact` says whether tokens were counted.
    `bounces` counts the busy workers in a row that sent the job away. `doom` is the error that the job ends with as
    soon as its stopped attempt has said how many tokens the client has. `reserved` are the tokens its tenant's quota
    holds for it while it is live. `charged` is the estimate its flow was charged for the attempt under way, sent at
    `sent_at`; `tokens_charged` is what its flow was charged for good.

    `questions` are open ones to the policy script, `said` is what it answered and `explain` does not know yet.
    `rejection` is its word at the door. `pencilled` is the seat kept while it is asked for a worker; it `declined` all
    that were offered so many times in a row, or named one (`stale`) that could not take the job any more.
    """

    record: JobRecord
    view: TaskView
    timeouts: Timeouts
    attached: bool
    handicap_s: float
    context_need: int = 0
    need_exact: bool = False
    shun: WorkerId | None = None
    failures: int = 0
    bounces: int = 0
    doom: tuple[str, str] | None = None
    questions: set[int] = field(default_factory=set)
    said: list[str] = field(default_factory=list)
    rejection: Rejection | None = None
    pencilled: Seat | None = None
    declined: int = 0
    stale: int = 0
    continuing: bool = False
    restarted: bool = False
    tokens_relayed: int = 0
    position_told: int | None = None
    loading_told: tuple[float, float | None] | None = None
    parked_told: bool = False
    reserved: int | None = None
    charged: int | None = None
    tokens_charged: int = 0
    sent_at: float = 0.0

    @property
    def id(self) -> JobId:
        return self.record.spec.job_id

    @property
    def seat(self) -> Seat:
        """The current attempt."""
        return (self.record.spec.job_id, self.record.attempts)

    @property
    def total_limit_at(self) -> float | None:
        """When the job has to be over, by its own deadline, timeout, or the policy; None: never."""
        spec = self.record.spec
        limits = [limit for limit in (spec.deadline_s, spec.timeout_s, self.timeouts.total_s) if limit is not None]
        return self.record.accepted_at + min(limits) if limits else None

    @property
    def model_told(self) -> bool:
        """Its client knows from `started` which model works for it: no other may go on."""
        return self.continuing or self.record.started_at is not None

    def needs(self, context: int) -> None:
        """The job is known to need a context of this length."""
        self.context_need, self.need_exact = context, True

    def needs_at_most(self, context: int) -> None:
        """The job needs no longer context than this."""
        self.context_need, self.need_exact = context, False

    def bounced(self) -> None:
        """A busy worker sent it away. One that always does must not keep it from its second choices."""
        self.bounces += 1
        if self.bounces > 1:
            self.shun = None
            if not self.need_exact:
                self.needs_at_most(0)

    def relayed(self, tokens: int) -> None:
        """Its client has got so many tokens; reports may come late."""
        self.tokens_relayed = max(self.tokens_relayed, tokens)


class State:
    """The brain's memory during and between turns."""

    def __init__(self, settings: BrainSettings, policy: Policy) -> None:
        self.settings = settings
        self.policy = policy
        self.jobs: dict[JobId, LiveJob] = {}
        self.queue = Queue()
        self.fleet = Fleet()
        self.book = PoolBook()
        self.timers = Timers()
        self.accounts = Accounts()
        self.speeds = Speeds()
        self.retries = RetryBudget(settings.retry_share, settings.retry_floor, settings.retry_window_s)
        self.sessions: OrderedDict[tuple[TenantId, SessionId], WorkerId] = OrderedDict()
        self.opened: OrderedDict[tuple[TenantId, SessionId], SessionRecord] = OrderedDict()
        self.known_models: frozenset[ModelId] = frozenset()
        self.aliases: dict[str, ModelId] = {}
        self.keys: OrderedDict[tuple[TenantId, str], JobId] = OrderedDict()
        self.watching: OrderedDict[JobId, None] = OrderedDict()
        self.unmet_pins: dict[Shape, float] = {}
        self.scripted: frozenset[Hook] = frozenset()
        self.policy_name = ""
        self.questions: dict[int, Question] = {}
        self.asked = 0
        self.utc_offset_s = 0
        self.admitting = 0
        self.pencilled = 0
        self.sequence = 0
        self.draining = False
        self.patient_until = 0.0
        self.now = 0.0
        self.unplaced: list[JobId] = []
        self.freed: dict[WorkerId, None] = {}
        self.shaken: dict[ModelId, None] = {}
        self._kept: dict[tuple[str, str], Persist] = {}
        self._decided: list[Persist] = []
        self._done: list[Effect] = []

    @property
    def depth(self) -> int:
        """Jobs that wait, those being counted included."""
        return len(self.queue) + self.admitting

    def keep_job(self, job: LiveJob) -> None:
        """Persist the job's record."""
        self._kept["job", job.id] = Persist(job.record)

    def remember_key(self, tenant: TenantId, key: str, job_id: JobId) -> None:
        """From now on this idempotency key means this job; the oldest key makes room."""
        self.keys[tenant, key] = job_id
        if len(self.keys) > self.settings.idempotency_keys_max:
            self.keys.popitem(last=False)

    def forget_key(self, job_id: JobId) -> None:
        """The idempotency key that means this job, if any, is free again."""
        for owner in [owner for owner, known in self.keys.items() if known == job_id]:
            del self.keys[owner]

    def keep_worker(self, worker: Worker) -> None:
        """Persist the worker's record."""
        self._kept["worker", worker.id] = Persist(worker.record())

    def keep_no_worker(self, worker_id: WorkerId) -> None:
        self._kept["worker", worker_id] = Persist(WorkerForgotten(worker_id))

    def keep_pool(self, pool: PoolRecord | PoolDropped) -> None:
        self._kept["pool", pool.pool_id] = Persist(pool)

    def keep_session(self, session: SessionRecord) -> None:
        self._kept["session", f"{session.tenant}/{session.session_id}"] = Persist(session)

    def keep_no_session(self, session: SessionForgotten) -> None:
        self._kept["session", f"{session.tenant}/{session.session_id}"] = Persist(session)

    def keep_usage(self, usage: UsageRecord) -> None:
        self._kept["usage", f"{usage.tenant}/{usage.day}"] = Persist(usage)

    def explain(
        self, job_id: JobId, kind: str, chosen: str | None, reasons: Iterable[tuple[str, str]] = (), note: str = ""
    ) -> None:
        """Persist a decision about a job."""
        self._decided.append(Persist(Decision(job_id, self.now, kind, chosen, tuple(reasons), note)))

    def do(self, effect: Effect) -> None:
        self._done.append(effect)

    def take_effects(self) -> list[Effect]:
        """What this turn came to; the memory of it is emptied."""
        effects: list[Effect] = [*self._kept.values(), *self._decided, *self._done]
        self._kept.clear()
        self._decided.clear()
        self._done.clear()
        return effects

    def move(self, job: LiveJob, happening: Happening, **changes: object) -> None:
        """Change the job's state along the table, and its record with it."""
        state = after(job.record.state, happening)
        job.record = replace(job.record, state=state, **changes)  # type: ignore[arg-type]

    def patience(self, at: float) -> float:
        """A limit for waiting on workers; after a restart they get time to announce themselves again."""
        return max(at, self.patient_until)

    def touch(self, worker: Worker | None) -> None:
        """The worker may have room: look for a job at the end of the turn. (`shaken`: look at all of a model,
        because a worker fewer turns second choices of the others into first ones.)"""
        if worker is not None:
            self.freed[worker.id] = None

    def running(self) -> int:
        """Jobs that a worker is on."""
        return len(self.jobs) - self.depth
