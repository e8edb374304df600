"""Workers that fail fast are left alone for a while, and then tried with one job at a time.

Counted are different jobs in a row: one that fails wherever it goes says little about its worker. Attempts that were
under way when a failure was counted say nothing new, so that a crash of many at once is one failure.
"""

from __future__ import annotations

from llorch.core.fleet import Worker
from llorch.core.state import LiveJob, State
from llorch.core.timers import Bell

DOUBLINGS_MAX = 16


def failed(state: State, worker: Worker, job: LiveJob) -> None:
    """An attempt failed by the worker's fault: after too many in a row it rests, longer each time."""
    if job.sent_at < worker.failed_at:
        return
    worker.failed_at = state.now
    worker.failed_jobs.add(job.id)
    if not worker.trips and len(worker.failed_jobs) < state.settings.breaker_failures:
        return
    settings = state.settings
    longer_s = settings.breaker_first_s * 2.0 ** min(worker.trips, DOUBLINGS_MAX)
    worker.trips += 1
    worker.failed_jobs.clear()
    worker.tripped_until = state.now + min(longer_s, settings.breaker_max_s)
    state.fleet.refresh(worker, state.now)
    state.timers.set(Bell.BREAKER, worker.id, worker.tripped_until)


def succeeded(state: State, worker: Worker) -> None:
    """An attempt came to its end: the worker is trusted again."""
    worker.failed_jobs.clear()
    if worker.trips:
        worker.trips, worker.tripped_until = 0, 0.0
        state.timers.clear(Bell.BREAKER, worker.id)
        state.fleet.refresh(worker, state.now)
        state.touch(worker)
