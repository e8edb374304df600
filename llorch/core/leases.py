"""Workers coming and going: announcements, heartbeats, leases, drains, and what their loss means for their jobs."""

from __future__ import annotations

from llorch.base import errors
from llorch.base.ids import JobId, WorkerId
from llorch.core import breaker, journey, waiting
from llorch.core.effects import CancelCause, DrainWorker, PoolDropped, PoolRecord, RefuseWorker
from llorch.core.events import (
    AttemptFailed,
    HeartbeatReceived,
    PoolForgotten,
    PoolRegistered,
    WorkerDrainRequested,
)
from llorch.core.fleet import Worker
from llorch.core.job import Failure, FailureKind, JobState
from llorch.core.placement import REFUSALS_AWAITED, serveable
from llorch.core.state import LiveJob, State
from llorch.core.timers import Bell
from llorch.core.worker import WorkerSpec, WorkerState

REFUSALS_COUNTED_MAX = 16
# Codes with which a worker says that another worker would answer the same.
FINAL_CODES = frozenset({errors.InvalidRequest.code, errors.ContextLengthExceeded.code, errors.TimedOut.code})


def announced(state: State, spec: WorkerSpec) -> None:
    """A worker is ready. An id in use by a live worker at another address is refused; a lost one is replaced.

    One process listens at an address, so a new id there means that the old worker is gone.
    """
    known = state.fleet.workers.get(spec.worker_id)
    if known is not None and known.spec.url != spec.url and known.state is not WorkerState.LOST:
        message = f"worker {spec.worker_id} is live at another address"
        state.do(RefuseWorker(spec.worker_id, spec.url, errors.WorkerAlreadyRegistered.code, message))
        return
    before = state.fleet.at_url(spec.url)
    if before is not None and before.id != spec.worker_id and before.state is not WorkerState.LOST:
        lose(state, before, f"replaced by {spec.worker_id} at its address")
    lease_until = state.now + state.settings.lease_s
    lanes = [lane for lane in (spec.model, None) if spec.context_length not in state.fleet.contexts(lane)]
    if known is None:
        worker = Worker(spec, announced_at=state.now, lease_until=lease_until)
        state.fleet.add(worker, state.now)
    else:
        worker = known
        worker.lease_until = lease_until
        state.fleet.renew(worker, spec, state.now)
    for lane in lanes:
        waiting.reshape(state, lane)
    watch_lease(state, worker)
    state.keep_worker(worker)
    state.touch(worker)


def watch_lease(state: State, worker: Worker) -> None:
    state.timers.clear(Bell.FORGET, worker.id)
    state.timers.clear(Bell.REST, worker.id)
    if not state.timers.armed(Bell.LEASE, worker.id):
        state.timers.set(Bell.LEASE, worker.id, worker.lease_until)


def heard(state: State, event: HeartbeatReceived) -> None:
    """A sign of life: the lease is renewed, a lost worker is back, its load is news for placement."""
    worker = state.fleet.workers.get(event.worker_id)
    if worker is None:
        return
    worker.lease_until = state.now + state.settings.lease_s
    before = worker.state
    # A drain we asked for holds until the worker announces itself anew; its own word holds until it says otherwise.
    draining = event.load.draining or worker.drain_asked or state.book.condemned(worker.id)
    worker.state = WorkerState.DRAINING if draining else WorkerState.READY
    worker.lost_reason = None
    state.fleet.heard(worker, event.load, state.now)
    state.fleet.prefixes.report(worker.id, event.prefixes)
    if worker.state is not before:
        watch_lease(state, worker)
        state.keep_worker(worker)
        state.shaken[worker.spec.model] = None
    state.touch(worker)


def lease_over(state: State, worker: Worker) -> None:
    """The time the worker was last given has passed: renewed meanwhile, or lost with all its attempts."""
    if worker.lease_until > state.now:
        state.timers.set(Bell.LEASE, worker.id, worker.lease_until)
        return
    lose(state, worker, f"no heartbeat for {state.settings.lease_s:.0f} s")


def suspect(state: State, worker: Worker, reason: str) -> None:
    """It did not take or broke off a connection: ask it nothing more until it gives a sign of life.

    Its other attempts go on as long as their streams do, at most until the lease ends.
    """
    if worker.state is WorkerState.LOST:
        return
    worker.state, worker.lost_reason = WorkerState.LOST, reason
    state.book.stirred = True
    state.fleet.refresh(worker, state.now)
    state.keep_worker(worker)
    state.timers.set(Bell.FORGET, worker.id, state.now + state.settings.lost_worker_kept_s)
    state.shaken[worker.spec.model] = None


def lose(state: State, worker: Worker, reason: str) -> None:
    """The worker is gone: every attempt on it is stopped and its job goes on elsewhere."""
    suspect(state, worker, reason)
    state.timers.clear(Bell.LEASE, worker.id)
    failure = Failure(FailureKind.BROKEN, errors.WorkerLost.code, f"worker {worker.id} was lost: {reason}")
    for job_id, number in sorted(worker.seats):
        job = state.jobs.get(job_id)
        if job is None or job.seat != (job_id, number) or job.record.state not in journey.ON_WORKER:
            continue
        if job.record.state is JobState.CANCELLING:
            journey.cancelled(state, job, None)
            continue
        if job.doom is not None:
            journey.give_up(state, job, *job.doom)
            continue
        journey.stop_attempt(state, job, CancelCause.LOST)
        job.shun = worker.id
        journey.interrupt(state, job, failure)


def attempt_failed(state: State, job: LiveJob, event: AttemptFailed) -> None:
    """The current attempt of a live job is over without an end: blame its worker and decide how the job goes on."""
    worker = state.fleet.workers.get(job.record.worker_id) if job.record.worker_id is not None else None
    failure = event.failure
    job.relayed(event.tokens_relayed)
    job.continuing = job.continuing or event.frames_relayed > 0
    if job.record.state is JobState.CANCELLING:
        # We cut the attempt off ourselves: that it broke says nothing about the worker.
        journey.cancelled(state, job, None)
        return
    if job.doom is not None:
        journey.give_up(state, job, *job.doom)
        return
    if worker is not None:
        _draw_conclusions(state, worker, failure)
        if _at_fault(failure):
            breaker.failed(state, worker, job)
    if _too_small(state, job, worker, failure):
        journey.interrupt(state, job, Failure(FailureKind.BUSY, failure.code, failure.message))
        return
    if failure.code == errors.DuplicateJob.code:
        failure = Failure(FailureKind.STALLED, failure.code, failure.message)
    if failure.kind is FailureKind.REJECTED or failure.code in FINAL_CODES:
        journey.give_up(state, job, failure.code, failure.message, failure.retry_after_s)
        return
    if failure.kind is not FailureKind.BUSY:
        job.shun = job.record.worker_id
    journey.interrupt(state, job, failure)


def _too_small(state: State, job: LiveJob, worker: Worker | None, failure: Failure) -> bool:
    """The prompt did not fit there, but bytes were all we knew and a larger context is known: ask for that."""
    if failure.code != errors.ContextLengthExceeded.code or worker is None or job.need_exact:
        return False
    context = worker.spec.context_length
    larger = waiting.shape_of(state, job)._replace(context=context + 1, exact=True)
    if not serveable(state.fleet, larger):
        return False
    job.needs(context + 1)
    return True


def _at_fault(failure: Failure) -> bool:
    """The failure says something bad about its worker."""
    if failure.code in FINAL_CODES or failure.code == errors.DuplicateJob.code:
        return False
    return failure.kind not in (FailureKind.BUSY, FailureKind.REJECTED)


def _draw_conclusions(state: State, worker: Worker, failure: Failure) -> None:
    match failure.kind:
        case FailureKind.REFUSED | FailureKind.BROKEN:
            state.fleet.blame(worker, state.now)
            suspect(state, worker, "it refused a connection" if failure.kind is FailureKind.REFUSED else "it broke off")
        case FailureKind.BUSY:
            rest_s = state.settings.busy_default_s if failure.retry_after_s is None else failure.retry_after_s
            # One that sends everybody away, whatever it says, is asked less and less often.
            longer_s = state.settings.backoff_first_s * 2.0 ** min(worker.refusals, REFUSALS_COUNTED_MAX)
            worker.refusals += 1
            if worker.refusals == REFUSALS_AWAITED:
                state.shaken[worker.spec.model] = None
            rest_s = max(rest_s, min(longer_s, state.settings.backoff_max_s))
            worker.rests_until = state.now + min(rest_s, errors.RETRY_AFTER_MAX_S)
            state.fleet.refresh(worker, state.now)
            state.timers.set(Bell.REST, worker.id, worker.rests_until)
        case FailureKind.STALLED | FailureKind.FAILED:
            state.fleet.blame(worker, state.now)
        case FailureKind.REJECTED:
            pass


def rested(state: State, worker: Worker) -> None:
    """A busy or failing worker may be asked again."""
    state.fleet.refresh(worker, state.now)
    state.touch(worker)


def drain_worker(state: State, event: WorkerDrainRequested) -> None:
    """An operator wants it empty: no new attempts; it finishes what it has and goes."""
    worker = state.fleet.workers.get(event.worker_id)
    if worker is None or worker.state is WorkerState.LOST or worker.drain_asked:
        return
    worker.state, worker.drain_asked = WorkerState.DRAINING, True
    state.fleet.refresh(worker, state.now)
    state.keep_worker(worker)
    state.shaken[worker.spec.model] = None
    state.do(DrainWorker(worker.id, worker.spec.url, event.correlation_id))


def forget_worker(state: State, worker_id: WorkerId) -> None:
    """Out of the list, by an operator's wish or because it was lost long ago."""
    worker = state.fleet.workers.get(worker_id)
    if worker is None:
        return
    lose(state, worker, "forgotten")
    state.fleet.drop(worker)
    state.timers.clear_worker(worker_id)
    state.keep_no_worker(worker_id)


def register_pool(state: State, event: PoolRegistered) -> None:
    """A host is registered, or its drain is switched on or off."""
    state.fleet.pools[event.pool_id] = event.draining
    state.keep_pool(PoolRecord(event.pool_id, event.draining))
    _pool_changed(state, event.pool_id)


def forget_pool(state: State, event: PoolForgotten) -> None:
    """A host is not registered any more; its workers, if any, count on their own."""
    if state.fleet.pools.pop(event.pool_id, None) is None:
        return
    state.keep_pool(PoolDropped(event.pool_id))
    _pool_changed(state, event.pool_id)


def _pool_changed(state: State, pool_id: str) -> None:
    for worker in state.fleet.workers.values():
        if worker.spec.pool == pool_id:
            state.fleet.refresh(worker, state.now)
            state.shaken[worker.spec.model] = None
            state.touch(worker)


def seat_over(state: State, job_id: JobId, attempt: int) -> None:
    """The shell says that an attempt, current or not, is over: its slot is free."""
    state.timers.clear(Bell.SEAT, f"{attempt}/{job_id}")
    state.touch(state.fleet.leave_seat((job_id, attempt), state.now))
    state.book.stirred = state.book.stirred or state.book.wanting
