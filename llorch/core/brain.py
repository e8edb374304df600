"""The conductor: one event in, a list of effects out. Holds the state; the deciding is done in the rooms beside it.

Pure: no I/O, no clock, no randomness. `now` is seconds that never go backwards inside a process and are comparable
across restarts (the shell sees to that), so records keep it as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from llorch.base import errors
from llorch.base.ids import JobId, ModelId, PoolId, SessionId, TenantId, WorkerId
from llorch.core import (
    admission,
    asking,
    bells,
    demand,
    journey,
    leases,
    loading,
    restart,
    sessions,
    spawning,
    tenants,
    waiting,
)
from llorch.core import events as happened
from llorch.core.accounts import TenantUsage
from llorch.core.effects import Effect, PoolRecord
from llorch.core.events import Event
from llorch.core.job import JobRecord, JobState, OnDisconnect
from llorch.core.loading import Loading
from llorch.core.policy import BuiltinPolicy, Policy
from llorch.core.session import SessionRecord
from llorch.core.settings import BrainSettings
from llorch.core.state import LiveJob, State
from llorch.core.timers import Bell
from llorch.core.transitions import HEARD
from llorch.core.worker import WorkerRecord

__all__ = ["Brain", "BrainSettings", "Counts", "QueuePlace"]


class QueuePlace(NamedTuple):
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

    def __init__(self, settings: BrainSettings | None = None, policy: Policy | None = None) -> None:
        self.settings = settings or BrainSettings()
        self._state = State(self.settings, policy or BuiltinPolicy(self.settings))
        self._hear = self._handlers()

    def decide(self, event: Event, now: float) -> list[Effect]:
        """What follows from this event, in the order to be carried out. An illegal event changes nothing: []."""
        state = self._state
        state.now = max(now, state.now)
        handler = self._hear.get(type(event))
        if handler is not None:
            handler(event)
            journey.settle(state)
            while demand.due(state):
                demand.look(state)
                journey.settle(state)
        return state.take_effects()

    def next_wakeup(self) -> float | None:
        """The `now` at which to feed TimePassed at the latest; None: nothing is waiting for time."""
        return self._state.timers.next()

    def job(self, job_id: JobId) -> JobRecord | None:
        """The record of a live job (queued to cancelling); None once it ended: then the store knows it."""
        job = self._state.jobs.get(job_id)
        return None if job is None or job.record.state is JobState.ADMITTING else job.record

    def knows_model(self, name: ModelId) -> bool:
        """The catalog or some worker has a model of this name, or it is an alias."""
        return admission.model_known(self._state, admission.model_meant(self._state, name))

    def position(self, job_id: JobId) -> QueuePlace | None:
        """The place of a queued job; None when it is not queued."""
        position = self._state.queue.position(job_id)
        if position is None:
            return None
        return QueuePlace(position, self._state.queue.eta_s(job_id, position, self._state.now))

    def loading(self, job_id: JobId) -> Loading | None:
        """How far the model of a queued job is loaded; None: nothing is being loaded for it."""
        job = self._state.jobs.get(job_id)
        return None if job is None else loading.of(self._state, job)

    def loadable_pools(self) -> list[PoolId]:
        """The pools that were ever heard of, by name."""
        return sorted(self._state.book.pools)

    def worker(self, worker_id: WorkerId) -> WorkerRecord | None:
        """One worker, lost ones included; None: never announced, so its heartbeat deserves a 404 (announce again)."""
        worker = self._state.fleet.workers.get(worker_id)
        return None if worker is None else worker.record()

    def workers(self) -> list[WorkerRecord]:
        """All workers by id, lost ones included until they are forgotten."""
        return [worker.record() for _, worker in sorted(self._state.fleet.workers.items())]

    def pools(self) -> list[PoolRecord]:
        """Registered hosts plus hosts with live workers, by id."""
        return self._state.fleet.pool_records()

    def registered_pools(self) -> frozenset[PoolId]:
        """The hosts that an operator registered: workers there may be announced by others."""
        return frozenset(self._state.fleet.pools)

    def tenants(self) -> tuple[TenantId, ...]:
        """Those that are configured or were ever seen, by name."""
        return self._state.accounts.names()

    def usage(self, tenant: TenantId) -> TenantUsage:
        """What a tenant took today and has now; nothing, when it was never seen."""
        return self._state.accounts.usage(tenant, self._state.now)

    def sessions(self, tenant: TenantId) -> list[SessionRecord]:
        """The tenant's opened sessions, the longest unused first."""
        return [record for (owner, _), record in self._state.opened.items() if owner == tenant]

    def session(self, tenant: TenantId, session_id: SessionId) -> SessionRecord | None:
        """One opened session; None when it is not open."""
        return self._state.opened.get((tenant, session_id))

    def counts(self) -> Counts:
        """The numbers of `/health`."""
        state = self._state
        return Counts(state.depth, state.running(), state.fleet.live_count(), len(self.pools()))

    def _handlers(self) -> dict[type[Any], Callable[[Any], None]]:
        """Event type to what is done about it."""
        state = self._state
        table: dict[type[Any], Callable[[Any], None]] = {
            happened.JobSubmitted: lambda event: admission.submit(state, event.spec),
            happened.TokensCounted: self._about_job(self._tokens_counted),
            happened.CancelRequested: self._about_job(self._cancel_requested),
            happened.ClientDisconnected: self._about_job(self._client_disconnected),
            happened.ClientAttached: self._about_job(self._client_attached),
            happened.AttemptStarted: self._about_attempt(lambda job, event: journey.started(state, job)),
            happened.FirstTokenSeen: self._about_attempt(lambda job, event: journey.first_token(state, job)),
            happened.AttemptEnded: self._attempt_over(self._attempt_ended),
            happened.AttemptFailed: self._attempt_over(self._attempt_failed),
            happened.AttemptStopped: self._about_job(lambda job, event: journey.stopped(state, job, event)),
            happened.JobNotStored: lambda event: admission.not_stored(state, event.job_id),
            happened.WorkerAnnounced: lambda event: spawning.announced(state, event.spec),
            happened.HeartbeatReceived: lambda event: spawning.heard(state, event),
            happened.WorkerDrainRequested: lambda event: leases.drain_worker(state, event),
            happened.WorkerForgetRequested: lambda event: leases.forget_worker(state, event.worker_id),
            happened.PoolRegistered: lambda event: leases.register_pool(state, event),
            happened.PoolForgotten: lambda event: leases.forget_pool(state, event),
            happened.CatalogRead: lambda event: admission.catalog_read(state, event),
            happened.TenantsRead: lambda event: tenants.read(state, event),
            happened.SettingsRead: self._settings_read,
            happened.SessionOpened: lambda event: sessions.opened(state, event),
            happened.SessionClosed: lambda event: sessions.closed(state, event),
            happened.DrainStarted: self._drain_started,
            happened.TimePassed: self._time_passed,
            happened.Restarted: lambda event: restart.restore(state, event),
            happened.PolicyLoaded: lambda event: asking.loaded(state, event),
            happened.PolicyAnswered: lambda event: asking.answered(state, event),
            happened.PolicyFailed: lambda event: asking.failed(state, event),
            happened.ZoneChanged: self._zone_changed,
            **spawning.handlers(state),
        }
        return table

    def _about_job(self, then: Callable[[LiveJob, Any], None]) -> Callable[[Any], None]:
        """Heard only when the job lives and its state listens to this kind of event."""

        def heard(event: Any) -> None:
            job = self._state.jobs.get(event.job_id)
            if job is not None and type(event) in HEARD[job.record.state]:
                then(job, event)

        return heard

    def _about_attempt(self, then: Callable[[LiveJob, Any], None]) -> Callable[[Any], None]:
        """Heard only when it is about the job's current attempt."""

        def heard(job: LiveJob, event: Any) -> None:
            if event.attempt == job.record.attempts:
                then(job, event)

        return self._about_job(heard)

    def _attempt_over(self, then: Callable[[LiveJob, Any], None]) -> Callable[[Any], None]:
        """Whatever became of the job, an attempt that is over frees its slot."""
        heard = self._about_attempt(then)

        def over(event: Any) -> None:
            leases.seat_over(self._state, event.job_id, event.attempt)
            journey.report_of_lost(self._state, event)
            heard(event)

        return over

    def _tokens_counted(self, job: LiveJob, event: happened.TokensCounted) -> None:
        admission.counted(self._state, job, event.prompt_tokens)

    def _cancel_requested(self, job: LiveJob, event: happened.CancelRequested) -> None:
        if job.record.state is JobState.ADMITTING:
            admission.refuse(self._state, job, errors.AdmissionRejected.code, "cancelled before it was accepted")
        else:
            journey.cancel(self._state, job)

    def _client_disconnected(self, job: LiveJob, event: happened.ClientDisconnected) -> None:
        job.attached = False
        self._state.watching.pop(job.id, None)
        if job.record.state is JobState.ADMITTING:
            admission.refuse(
                self._state, job, errors.AdmissionRejected.code, "the client went away before it was accepted"
            )
        elif job.record.spec.on_disconnect is OnDisconnect.CANCEL:
            if self.settings.disconnect_grace_s > 0:
                self._state.timers.set(Bell.GRACE, job.id, self._state.now + self.settings.disconnect_grace_s)
            else:
                journey.cancel(self._state, job)

    def _client_attached(self, job: LiveJob, event: happened.ClientAttached) -> None:
        job.attached = True
        self._state.timers.clear(Bell.GRACE, job.id)
        if job.record.state is JobState.QUEUED:
            waiting.watch(self._state, job)

    def _attempt_ended(self, job: LiveJob, event: happened.AttemptEnded) -> None:
        journey.ended(self._state, job, event.result)

    def _attempt_failed(self, job: LiveJob, event: happened.AttemptFailed) -> None:
        leases.attempt_failed(self._state, job, event)

    def _drain_started(self, event: happened.DrainStarted) -> None:
        self._state.draining = True

    def _zone_changed(self, event: happened.ZoneChanged) -> None:
        self._state.utc_offset_s = event.utc_offset_s

    def _settings_read(self, event: happened.SettingsRead) -> None:
        self.settings = self._state.settings = event.settings
        if isinstance(self._state.policy, BuiltinPolicy):
            self._state.policy = BuiltinPolicy(event.settings)

    def _time_passed(self, event: happened.TimePassed) -> None:
        for bell, name in self._state.timers.due(self._state.now):
            bells.ring(self._state, bell, name)
