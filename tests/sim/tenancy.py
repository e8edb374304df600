"""Tenants and sessions of a history: who comes with which limits, and a judge of what they may take."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sim.violation import Violation

from llorch.base.ids import JobId, SessionId, TenantId
from llorch.core import effects as to_do
from llorch.core import events as happened
from llorch.core.effects import Effect, Record
from llorch.core.events import Event
from llorch.core.job import JobRecord, JobState
from llorch.core.session import SessionLimits, SessionRecord
from llorch.core.tenant import DAY_S, TenantLimits, UsageRecord

if TYPE_CHECKING:
    from sim.world import World

TENANTS = (TenantId("alice"), TenantId("bob"), TenantId("default"))
SESSIONS = (SessionId("s"), SessionId("t"))
ON_WORKER = (JobState.DISPATCHED, JobState.RUNNING, JobState.CANCELLING)


def limits(world: World) -> happened.TenantsRead:
    """New limits for everybody, some of them tight."""
    rng = world.rng
    drawn = {
        tenant: TenantLimits(
            weight=rng.choice((0.001, 1.0, 1.0, 3.0)),
            running_max=rng.choice((None, 1, 1, 2)),
            queued_max=rng.choice((None, None, 1, 3)),
            tokens_per_day=rng.choice((None, None, 300, 900)),
            requests_per_s=rng.choice((None, None, 2.0)),
        )
        for tenant in TENANTS
    }
    return happened.TenantsRead(drawn)


def session_event(world: World) -> Event:
    """A session is opened, perhaps again, with limits that are soon felt; or closed."""
    rng = world.rng
    tenant, session = rng.choice(TENANTS), rng.choice(SESSIONS)
    if rng.random() < 0.2:
        return happened.SessionClosed(tenant, session)
    budget = SessionLimits(rng.choice((1.0, 3.0, 60.0)), rng.choice((None, 2, 8)), rng.choice((None, 0.5)))
    return happened.SessionOpened(tenant, session, budget)


class Books:
    """What is stored of tenants and sessions, and the records of all live jobs as they were last decided.

    `quota_max`: the largest quota that ever held; None: there was a time without any.
    """

    def __init__(self) -> None:
        self.in_force: dict[TenantId, TenantLimits] = {}
        self.quota_max: dict[TenantId, int | None] = {}
        self.usage: dict[tuple[TenantId, int], UsageRecord] = {}
        self.sessions: dict[tuple[TenantId, SessionId], SessionRecord] = {}
        self._latest: dict[JobId, JobRecord] = {}
        self._taken: dict[tuple[TenantId, int], int] = {}
        self._spent: dict[tuple[TenantId, SessionId], SessionRecord] = {}

    def read(self, event: happened.TenantsRead) -> None:
        """These limits hold from now on."""
        self.in_force = dict(event.limits)
        for tenant in TENANTS:
            quota = self.in_force.get(tenant, event.default).tokens_per_day
            before = self.quota_max.get(tenant, 0)
            self.quota_max[tenant] = None if quota is None or before is None else max(quota, before)

    def restored(self) -> happened.Restarted:
        """What a restart finds of usage and sessions."""
        self._taken = {key: record.prompt_tokens + record.tokens_out for key, record in self.usage.items()}
        self._spent = dict(self.sessions)
        return happened.Restarted(
            (), (), (), {}, sessions=tuple(self.sessions.values()), usage=tuple(self.usage.values())
        )

    def written(self, record: Record) -> None:
        """A record reached the store."""
        if isinstance(record, UsageRecord):
            self.usage[record.tenant, record.day] = record
        elif isinstance(record, SessionRecord):
            self.sessions[record.tenant, record.session_id] = record
        elif isinstance(record, to_do.SessionForgotten):
            self.sessions.pop((record.tenant, record.session_id), None)

    def decided(self, event: Event, answer: list[Effect], world: World) -> None:
        """One answer of the brain: nobody was let in or sent to a worker who may not."""
        if isinstance(event, happened.TenantsRead):
            self.read(event)
        if isinstance(event, happened.JobNotStored):
            self._latest.pop(event.job_id, None)
        if isinstance(event, happened.Restarted):
            self._latest = {record.spec.job_id: record for record in event.jobs}
        spent = dict(self._spent)
        for effect in answer:
            if isinstance(effect, to_do.Persist):
                self._note(effect.record, world)
        for effect in answer:
            if isinstance(effect, to_do.Accept) and effect.job_id in self._latest:  # else it has ended already
                self._check_budgets(self._latest[effect.job_id], spent, world)
        self._check_running(answer)

    def _note(self, record: Record, world: World) -> None:
        if isinstance(record, JobRecord):
            self._latest[record.spec.job_id] = record
            if record.state.terminal:
                del self._latest[record.spec.job_id]
        elif isinstance(record, UsageRecord):
            taken = self._taken[record.tenant, record.day] = record.prompt_tokens + record.tokens_out
            quota = self.quota_max.get(record.tenant)
            if quota is not None and taken > quota:
                raise Violation(
                    f"{record.tenant} took {taken} tokens on day {record.day}, {quota} were the most it might"
                )
        elif isinstance(record, SessionRecord):
            self._spent[record.tenant, record.session_id] = record
        elif isinstance(record, to_do.SessionForgotten):
            self._spent.pop((record.tenant, record.session_id), None)

    def _check_budgets(
        self, record: JobRecord, spent: dict[tuple[TenantId, SessionId], SessionRecord], world: World
    ) -> None:
        """Before this turn the session had something left; the day's tokens hold all that live jobs may need."""
        spec = record.spec
        session = None if spec.session_id is None else spent.get((spec.tenant, spec.session_id))
        if session is not None:
            tokens, seconds = session.limits.tokens_max, session.limits.time_max_s
            if (tokens is not None and session.tokens_used >= tokens) or (
                seconds is not None and session.time_used_s >= seconds
            ):
                raise Violation(f"{spec.job_id} was let in, its session {session.session_id} had nothing left")
        quota = self.in_force.get(spec.tenant, TenantLimits()).tokens_per_day
        if quota is None:
            return
        live = [other for other in self._latest.values() if other.spec.tenant == spec.tenant]
        most = self._taken.get((spec.tenant, int(world.now // DAY_S)), 0) + sum(map(_need, live))
        if most > quota:
            raise Violation(f"{spec.job_id} was let in: {spec.tenant} may come to {most} of {quota} tokens")

    def _check_running(self, answer: list[Effect]) -> None:
        """No first attempt begins when the tenant has its fill; who goes on or is tried again may."""
        sent = [effect for effect in answer if isinstance(effect, to_do.Dispatch)]
        again = Counter(self._latest[e.job_id].spec.tenant for e in sent if e.attempt > 1)
        for effect in sent:
            tenant = self._latest[effect.job_id].spec.tenant
            most = self.in_force.get(tenant, TenantLimits()).running_max
            running = [r for r in self._latest.values() if r.spec.tenant == tenant and r.state in ON_WORKER]
            if effect.attempt == 1 and most is not None and len(running) > most + again[tenant]:
                raise Violation(f"{effect.job_id} was sent to a worker, {tenant} has {len(running)} of {most} running")

    def judge(self, ended: dict[JobId, JobRecord], away: int) -> None:
        """Every ending with a result is booked once, whatever crashed.

        Of the jobs `away`, which could not be stored, those count that were cancelled in the very turn they came.
        """
        for tenant in TENANTS:
            results = [r.ending.result for r in ended.values() if r.spec.tenant == tenant and r.ending is not None]
            real = [result for result in results if result is not None]
            booked = [record for (owner, _), record in self.usage.items() if owner == tenant]
            jobs, tokens = sum(record.jobs for record in booked), sum(record.tokens_out for record in booked)
            if not len(real) <= jobs <= len(real) + away or tokens != sum(result.tokens_out for result in real):
                raise Violation(f"{tenant} is booked for {jobs} jobs and {tokens} tokens, it had {len(real)}: {real}")


def _need(record: JobRecord) -> int:
    """Written from spec/jobs.md: what a job may still take."""
    spec = record.spec
    prompt = spec.prompt_bytes // 4 if spec.prompt_tokens is None else spec.prompt_tokens
    return prompt + (256 if spec.max_tokens is None else spec.max_tokens)
