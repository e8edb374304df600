"""What is done when something the brain waited for is due."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from llorch.base.ids import JobId, WorkerId
from llorch.core import admission, asking, journey, leases, loading, sessions, spawning, waiting
from llorch.core.effects import Announce
from llorch.core.fleet import Worker
from llorch.core.placement import pin_problem
from llorch.core.queue import Shape
from llorch.core.state import LiveJob, State
from llorch.core.timers import JOB_BELLS, WORKER_BELLS, Bell


def ring(state: State, bell: Bell, name: str) -> None:
    """Do what this bell stands for; `name` is a job's, a worker's, an attempt's or nobody's, by its kind."""
    if bell in JOB_BELLS:
        job = state.jobs.get(JobId(name))
        assert job is not None, f"{bell} outlived its job"
        _FOR_JOBS[bell](state, job)
    elif bell in WORKER_BELLS:
        worker = state.fleet.workers.get(WorkerId(name))
        assert worker is not None, f"{bell} outlived its worker"
        _FOR_WORKERS[bell](state, worker)
    elif bell is Bell.ASK:
        asking.limit(state, name)
    elif bell is Bell.SEAT:
        journey.seat_limit(state, name)
    elif bell is Bell.ANNOUNCE:
        _announce_places(state)
    elif bell is Bell.PINS:
        _look_after_pins(state)
    elif bell is Bell.DEMAND:
        spawning.overdue(state)
        state.book.stirred = True
    elif bell is Bell.AGEING:
        state.queue.promote(state.now)
        waiting.watch_ageing(state)
    elif bell is Bell.SESSION:
        sessions.ttl_over(state, name)


_FOR_JOBS: dict[Bell, Callable[[State, LiveJob], None]] = {
    Bell.COUNT: lambda state, job: admission.counted(state, job, None),
    Bell.QUEUE: journey.queue_timeout,
    Bell.TOTAL: journey.total_timeout,
    Bell.BACKOFF: journey.backoff_over,
    Bell.REUNION: journey.reunion_over,
    Bell.STOP: journey.stop_limit,
    Bell.GRACE: journey.cancel,
}

_FOR_WORKERS: dict[Bell, Callable[[State, Worker], None]] = {
    Bell.LEASE: leases.lease_over,
    Bell.REST: leases.rested,
    Bell.BREAKER: leases.rested,
    Bell.FORGET: lambda state, worker: leases.forget_worker(state, worker.id),
}


def _announce_places(state: State) -> None:
    """Tell attached waiting clients their changed places; a bounded number a time, the longest untold first."""
    for job_id in list(islice(state.watching, state.settings.announce_batch)):
        state.watching.move_to_end(job_id)
        job = state.jobs[job_id]
        position = state.queue.position(job_id)
        assert position is not None
        loading.tell(state, job)
        if position != job.position_told:
            job.position_told = position
            state.do(Announce(job_id, position, state.queue.eta_s(job_id, position, state.now)))
    if state.watching:
        state.timers.set(Bell.ANNOUNCE, "", state.now + state.settings.announce_every_s)


def _look_after_pins(state: State) -> None:
    """Waiting jobs whose pin cannot be met for too long end with the error that says so."""
    unmet: dict[Shape, float] = {}
    shapes = state.queue.pinned()
    for shape in shapes:
        members = state.queue.members(shape)
        wishes = state.jobs[members[0]].record.spec.wishes
        problem = pin_problem(state.fleet, wishes, shape.lane)
        if problem is None:
            continue
        limit = state.unmet_pins.get(shape, state.patience(state.now + state.settings.continue_wait_s))
        unmet[shape] = limit
        if state.now >= limit:
            for job_id in members:
                journey.give_up(state, state.jobs[job_id], problem.code, problem.message)
    state.unmet_pins = unmet
    if shapes:
        state.timers.set(Bell.PINS, "", state.now + state.settings.lease_s)
