"""Picking up after a restart of orchestratord: the stored records become the state, broken-off jobs first in line."""

from __future__ import annotations

from dataclasses import replace

from llorch.core import journey, sessions, tenants, waiting
from llorch.core.admission import new_live_job
from llorch.core.events import Relayed, Restarted
from llorch.core.fleet import Worker
from llorch.core.job import JobRecord, JobState
from llorch.core.state import LiveJob, State
from llorch.core.timers import Bell
from llorch.core.transitions import Happening
from llorch.core.worker import WorkerRecord, WorkerState


def restore(state: State, event: Restarted) -> None:
    """Workers count as lost until they announce themselves; jobs wait for them at least `restart_wait_s`."""
    state.patient_until = state.now + state.settings.restart_wait_s
    if event.workers:  # they announce themselves within moments, so nothing is loaded in their place before
        state.book.quiet_until = state.now + 2 * state.settings.lease_s
    state.book.stirred = True
    for pool in event.pools:
        state.fleet.pools[pool.pool_id] = pool.draining
    for tenant, key, job_id in event.keys:
        state.remember_key(tenant, key, job_id)
    tenants.restore(state, event.usage)
    sessions.restore(state, event.sessions)
    for stored in event.workers:
        _restore_worker(state, stored)
    for record in event.jobs:
        if record.state.terminal or record.spec.job_id in state.jobs:
            continue
        job = _restore_job(state, record, event.relayed.get(record.spec.job_id))
        _resume(state, job)


def _restore_worker(state: State, stored: WorkerRecord) -> None:
    worker = Worker(stored.spec, stored.announced_at, stored.lease_until, WorkerState.LOST)
    worker.lost_reason = "not heard of since the restart"
    if worker.id in state.fleet.workers:
        return
    state.fleet.add(worker, state.now)
    state.timers.set(Bell.FORGET, worker.id, state.now + state.settings.lost_worker_kept_s)


def _restore_job(state: State, record: JobRecord, relayed: Relayed | None) -> LiveJob:
    job = new_live_job(state, record)
    job.attached = False
    job.continuing = record.first_token_at is not None
    if relayed is not None:
        job.continuing = job.continuing or relayed.frames > 0
        job.relayed(relayed.tokens)
        # The client may have been told a moment before the process went, or while the disk refused our records.
        started_at = record.started_at or record.dispatched_at or state.now
        job.record = replace(record, started_at=started_at, model=relayed.model or record.model)
    job.restarted = record.state is not JobState.QUEUED
    state.jobs[job.id] = job
    tenants.enter(state, job)
    state.sequence = max(state.sequence, record.sequence + 1)
    if record.spec.idempotency_key is not None:
        state.remember_key(record.spec.tenant, record.spec.idempotency_key, job.id)
    limit = job.total_limit_at
    if limit is not None:
        state.timers.set(Bell.TOTAL, job.id, limit)
    return job


def _resume(state: State, job: LiveJob) -> None:
    if job.record.cancel_requested:
        journey.cancelled(state, job, None)
        return
    if job.record.state is not JobState.QUEUED:
        state.move(job, Happening.INTERRUPTED, queued_since=state.now)
        state.keep_job(job)
        state.explain(job.id, "continue" if job.continuing else "retry", None, (), "orchestratord restarted")
    waiting.wait(state, job)
