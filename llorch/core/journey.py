"""A job's way from the queue to its one ending: wait, place, start, interrupt, cancel, finish."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from llorch.base import errors
from llorch.base.ids import JobId
from llorch.core import asking, breaker, dispatch, eviction, forecast, sessions, tenants, waiting
from llorch.core.asking import Unanswered
from llorch.core.dispatch import BOUNCES_EXPLAINED_MAX
from llorch.core.effects import CancelAttempt, CancelCause, Finish
from llorch.core.events import AttemptEnded, AttemptFailed, AttemptStopped
from llorch.core.fairness import Tier, Turn
from llorch.core.fleet import Worker
from llorch.core.hooks import Answer, failure_argument
from llorch.core.job import Ending, Failure, FailureKind, JobState, Result
from llorch.core.placement import serveable, takes
from llorch.core.policy import Hook
from llorch.core.state import LiveJob, State
from llorch.core.timers import Bell
from llorch.core.transitions import Happening

ON_WORKER = frozenset({JobState.DISPATCHED, JobState.RUNNING, JobState.CANCELLING})
LOST_KINDS = frozenset({FailureKind.REFUSED, FailureKind.BROKEN, FailureKind.STALLED, FailureKind.BUSY})


def fill(state: State, worker: Worker) -> None:
    """Give a worker with room the jobs that are first in line for it, until none fits or it is full."""
    while worker.open_key is not None:
        best: Turn | None = None
        for turn, shape in state.queue.heads(worker.spec.model, worker.id):
            if state.draining and turn.tier is not Tier.FIRST:
                continue
            if (best is None or turn < best) and takes(state.fleet, shape, worker):
                best = turn
        if best is None or not dispatch.place(state, state.jobs[best.key.job_id]):
            return


def settle(state: State) -> None:
    """The end of a turn: workers with new room first, in the queue's order; then jobs that just came.

    A job behind another of equal demands is not tried: who refuses the first refuses the second.
    """
    while state.freed or state.unplaced or state.shaken:
        for model in state.shaken:
            for peer in state.fleet.open(model):
                state.touch(peer)
        state.shaken.clear()
        freed, state.freed = state.freed, {}
        for worker_id in freed:
            worker = state.fleet.workers.get(worker_id)
            if worker is not None:
                fill(state, worker)
        unplaced, state.unplaced = state.unplaced, []
        offered = [job_id for job_id in unplaced if (entry := state.queue.entry(job_id)) and not entry[2]]
        if len(offered) > 1:
            offered = [turn.key.job_id for turn in sorted(map(state.queue.turn, offered))]
        for job_id in offered:
            if state.queue.leads(job_id) and not (state.draining and state.queue.turn(job_id).tier is not Tier.FIRST):
                dispatch.place(state, state.jobs[job_id])


def started(state: State, job: LiveJob) -> None:
    """The worker began with the current attempt."""
    if job.record.state is JobState.DISPATCHED:
        if (worker := state.fleet.seated(job.seat)) is not None:
            worker.refusals = 0
        if job.bounces > BOUNCES_EXPLAINED_MAX:
            note = f"attempt {job.record.attempts}, after {job.bounces} busy answers in a row"
            state.explain(job.id, "placed", job.record.worker_id, (), note)
        job.bounces = 0
        first = job.record.started_at
        state.move(job, Happening.STARTED, started_at=state.now if first is None else first)
        state.keep_job(job)


def first_token(state: State, job: LiveJob) -> None:
    """A token of the current attempt passed the relay: from now on the job is continued, not retried."""
    job.continuing = True
    if job.record.first_token_at is None:
        job.record = replace(job.record, first_token_at=state.now)
        state.keep_job(job)
    started(state, job)


def interrupt(state: State, job: LiveJob, failure: Failure) -> None:
    """The current attempt is lost: queue for another one, or give up when policy says it was tried enough."""
    if failure.kind is FailureKind.BUSY:
        job.bounced()
        _try_again(state, job, failure, 0.0)  # the worker rests, nobody failed
        return
    job.bounces = 0
    job.failures += 1
    if Hook.RETRY not in state.scripted:
        _retry_or_give_up(state, job, failure, state.policy.retry(job.view, failure, job.failures))
        return
    _off_worker(state, job, queued_since=state.now)
    waiting.wait(state, job, waiting.ASKED)
    then = partial(_answered_retry, state, job, failure)
    asking.ask(state, job, Hook.RETRY, then, failure=failure_argument(failure), n=job.failures)


def _answered_retry(state: State, job: LiveJob, failure: Failure, answer: Answer | Unanswered) -> None:
    """The script's word on a job that waits for nothing else."""
    delay_s = answer if isinstance(answer, float) else None
    if isinstance(answer, Unanswered):
        delay_s = state.policy.retry(job.view, failure, job.failures)
    asking.explain(state, job)
    state.queue.remove(job.id)
    _retry_or_give_up(state, job, failure, delay_s)


def _retry_or_give_up(state: State, job: LiveJob, failure: Failure, delay_s: float | None) -> None:
    if delay_s is None:
        give_up(state, job, *_verdict(job, failure))
        return
    if not job.continuing and not state.retries.spend(state.now):
        delay_s = max(delay_s, state.settings.backoff_max_s)
    if failure.code == errors.DuplicateJob.code:
        delay_s = max(delay_s, state.settings.busy_default_s)  # the worker still has an earlier attempt to let go
    _try_again(state, job, failure, delay_s)


def _try_again(state: State, job: LiveJob, failure: Failure, delay_s: float) -> None:
    if job.bounces <= BOUNCES_EXPLAINED_MAX:
        what = "continue" if job.continuing else "retry"
        why = f"{failure.kind.value} {failure.code}, again in {delay_s:.3f} s"
        state.explain(job.id, what, None, ((job.record.worker_id or "", failure.kind.value),), why)
    if job.record.state is not JobState.QUEUED:
        # Who was sent away by a busy worker has been waiting all the time.
        busy = failure.kind is FailureKind.BUSY
        _off_worker(state, job, queued_since=job.record.queued_since if busy else state.now)
    waiting.wait(state, job, delay_s)


def _off_worker(state: State, job: LiveJob, queued_since: float) -> None:
    tenants.off_worker(state, job)
    state.move(job, Happening.INTERRUPTED, queued_since=queued_since)
    state.keep_job(job)


def _verdict(job: LiveJob, failure: Failure) -> tuple[str, str]:
    if failure.kind in LOST_KINDS:
        return errors.WorkerLost.code, f"{failure.message}; gave up after {job.failures} failed attempts"
    return failure.code, failure.message


def give_up(state: State, job: LiveJob, code: str, message: str, retry_after_s: float | None = None) -> None:
    """End the job as failed. Tokens that were sent are counted in the ending's result."""
    partial = Result("ERROR", job.tokens_relayed, seed=job.record.spec.seed) if job.continuing else None
    retriable = errors.by_code(code).retriable
    ending = Ending(JobState.FAILED, partial, code, message, retriable, retry_after_s)
    finish(state, job, Happening.GAVE_UP, ending)


def ended(state: State, job: LiveJob, result: Result) -> None:
    """The worker finished the current attempt, by itself or because it was told to stop."""
    if job.record.worker_id is not None and (worker := state.fleet.workers.get(job.record.worker_id)) is not None:
        state.fleet.praise(worker, state.now)
        breaker.succeeded(state, worker)
    forecast.learn(state, job.record, result)
    if job.doom is not None:
        job.relayed(result.tokens_out)
        give_up(state, job, *job.doom)
    elif job.record.state is JobState.CANCELLING or result.stop_reason == "CANCELLED":
        cancelled(state, job, _over_all_attempts(state, job, result))
    else:
        finish(state, job, Happening.ENDED, Ending(JobState.COMPLETED, _over_all_attempts(state, job, result)))


def _over_all_attempts(state: State, job: LiveJob, result: Result) -> Result:
    """A continued job's last worker timed its own part only: times as the client saw them."""
    record = job.record
    if record.attempts == 1 or record.first_token_at is None or record.dispatched_at is None:
        return result
    return replace(
        result,
        ttft_ms=round((record.first_token_at - record.dispatched_at) * 1000),
        decode_time_ms=round((state.now - record.first_token_at) * 1000),
    )


def cancel(state: State, job: LiveJob) -> None:
    """The client wants it stopped: at once when no worker is on it, else when the worker or the limit says so."""
    current = job.record.state
    if current is JobState.QUEUED:
        cancelled(state, job, None)
    elif current in (JobState.DISPATCHED, JobState.RUNNING) and job.doom is None:
        stop_attempt(state, job, CancelCause.CLIENT)
        state.move(job, Happening.CANCEL_ASKED, cancel_requested=True)
        state.keep_job(job)
        state.timers.set(Bell.STOP, job.id, state.now + state.settings.cancel_limit_s)


def stop_limit(state: State, job: LiveJob) -> None:
    """The end of an attempt that was stopped is waited for no longer."""
    if job.doom is None:
        cancelled(state, job, None)
    else:
        give_up(state, job, *job.doom)


def stopped(state: State, job: LiveJob, event: AttemptStopped) -> None:
    """So many tokens the client has got; a job whose end only waited for that number ends."""
    job.relayed(event.tokens_relayed)
    if job.doom is not None and event.attempt == job.record.attempts:
        give_up(state, job, *job.doom)


def report_of_lost(state: State, event: AttemptEnded | AttemptFailed) -> None:
    """The end of an attempt that was taken for lost in the very same moment: its tokens reached the client."""
    job = state.jobs.get(event.job_id)
    if job is not None and job.record.state is JobState.QUEUED and event.attempt == job.record.attempts:
        job.relayed(event.result.tokens_out if isinstance(event, AttemptEnded) else event.tokens_relayed)


def cancelled(state: State, job: LiveJob, result: Result | None) -> None:
    """End the job as cancelled, with what the worker reported where it did."""
    if result is None:
        result = Result("CANCELLED", job.tokens_relayed, seed=job.record.spec.seed)
    finish(state, job, Happening.CANCELLED, Ending(JobState.CANCELLED, replace(result, stop_reason="CANCELLED")))


def stop_attempt(state: State, job: LiveJob, cause: CancelCause) -> None:
    """Stop the current attempt. Its seat stays taken until the shell reports the end, or for a limited time."""
    worker = state.fleet.seated(job.seat)
    if worker is None:
        return
    limit_s = state.settings.cancel_limit_s
    state.do(CancelAttempt(job.id, job.record.attempts, worker.id, worker.spec.url, cause, limit_s))
    state.timers.set(Bell.SEAT, f"{job.record.attempts}/{job.id}", state.now + limit_s)


def forget(state: State, job: LiveJob) -> None:
    """The job is over, or never was: nothing waits for it or looks after it any more."""
    if state.queue.entry(job.id) is not None:
        state.queue.remove(job.id)
    state.watching.pop(job.id, None)
    state.timers.clear_job(job.id)
    asking.drop(state, job)
    dispatch.rub_out(state, job)
    tenants.leave(state, job)
    del state.jobs[job.id]


def seat_limit(state: State, name: str) -> None:
    """A stopped attempt was not reported over: count its slot as free."""
    number, _, job_id = name.partition("/")
    state.touch(state.fleet.leave_seat((JobId(job_id), int(number)), state.now))


def finish(state: State, job: LiveJob, happening: Happening, ending: Ending) -> None:
    """The one ending: persist, forget, close the stream."""
    if ending.result is not None:
        job.relayed(ending.result.tokens_out)
    forget(state, job)
    state.move(job, happening, ended_at=state.now, ending=ending)
    state.keep_job(job)
    tenants.ended(state, job.record, ending)
    sessions.ended(state, job.record, ending)
    state.explain(job.id, ending.state.value, job.record.worker_id, (), ending.error_code or _stop_reason(ending))
    state.do(Finish(job.id, ending, job.record.spec.correlation_id))


def _stop_reason(ending: Ending) -> str:
    return "" if ending.result is None else ending.result.stop_reason


def total_timeout(state: State, job: LiveJob) -> None:
    """The job's own deadline or timeout passed."""
    if job.record.state is JobState.CANCELLING:
        return
    job.doom = (errors.TimedOut.code, "the job took longer than its deadline or timeout allows")
    if job.record.state is JobState.QUEUED:
        give_up(state, job, *job.doom)
        return
    stop_attempt(state, job, CancelCause.TIMEOUT)
    state.timers.set(Bell.STOP, job.id, state.now + state.settings.cancel_limit_s)


def queue_timeout(state: State, job: LiveJob) -> None:
    """The job waited too long for an attempt."""
    waited_s = state.now - job.record.queued_since
    code = errors.WorkerLost.code if job.continuing else errors.QueueTimeout.code
    give_up(state, job, code, f"no worker took the job within {waited_s:.0f} s")


def reunion_over(state: State, job: LiveJob) -> None:
    """A broken-off job waited its time: go on waiting only if some ready worker could serve it when free."""
    entry = state.queue.entry(job.id)
    assert entry is not None
    if serveable(state.fleet, entry[1]) or eviction.hopeful(state, entry[1]):
        state.timers.set(Bell.REUNION, job.id, state.now + state.settings.continue_wait_s)
        return
    message = f"the worker was lost after {job.tokens_relayed} tokens and no other could continue"
    give_up(state, job, errors.WorkerLost.code, message)


def backoff_over(state: State, job: LiveJob) -> None:
    """The job may be placed again."""
    state.queue.offer(job.id)
    state.unplaced.append(job.id)
    entry = state.queue.entry(job.id)
    assert entry is not None
    waiting.watch_pins(state, entry[1])
    state.book.stirred = True
