"""Handing a waiting job to a worker: placement's ranking, the policy's choice, the attempt's first record.

While a script is asked for a worker the job keeps its place, offered to nobody, and a seat is *pencilled* for it on the
worker that ranked first: there are never more such questions than free slots, and the built-in choice stays possible.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from llorch.base.ids import SessionId, TenantId, WorkerId
from llorch.core import asking, tenants
from llorch.core.asking import Unanswered
from llorch.core.effects import Dispatch
from llorch.core.fairness import Tier
from llorch.core.fleet import Worker
from llorch.core.hooks import Answer, workers_argument
from llorch.core.placement import CANDIDATES_MAX, Chooser, Leaning, Reasons, hard_misfit, usable
from llorch.core.policy import Hook
from llorch.core.queue import Shape
from llorch.core.state import LiveJob, State
from llorch.core.timers import Bell
from llorch.core.transitions import Happening

# How often a job that busy workers send away again and again explains where it was sent.
BOUNCES_EXPLAINED_MAX = 1


def place(state: State, job: LiveJob) -> bool:
    """Dispatch an offered job, or ask the script where to, if a worker can take it now; else explain why none can."""
    entry = state.queue.entry(job.id)
    assert entry is not None
    shape = entry[1]
    leaning = _leaning(state, job)
    chooser = Chooser(state.fleet, state.settings.reasons_max)
    found = chooser.find(shape, leaning, state.now)
    if not found.ranked:
        if job.bounces <= BOUNCES_EXPLAINED_MAX:
            state.explain(job.id, "waiting", None, found.reasons)
        return False
    candidates = [chooser.candidate(worker, shape, leaning) for worker in found.ranked[:CANDIDATES_MAX]]
    if Hook.CHOOSE_WORKER in state.scripted:
        _pencil(state, job, found.ranked[0])
        then = partial(_answered, state, job, leaning, partial(chooser.passed_over, found, leaning))
        asking.ask(state, job, Hook.CHOOSE_WORKER, then, workers=workers_argument(candidates))
        return True
    chosen = state.policy.choose_worker(job.view, candidates)
    worker = next((worker for worker in found.ranked if worker.id == chosen), found.ranked[0])
    others = chooser.passed_over(found, leaning, worker)
    _dispatch(state, job, worker, shape, others, leaning.told(worker))
    return True


def _leaning(state: State, job: LiveJob) -> Leaning:
    spec = job.record.spec
    affine = None if spec.session_id is None else state.sessions.get((spec.tenant, spec.session_id))
    return Leaning(spec.wishes.prefer_pools, affine, state.fleet.prefixes.held(spec.prefixes))


def _pencil(state: State, job: LiveJob, worker: Worker) -> None:
    """Keep a seat for the job's next attempt, and the job from being offered."""
    state.queue.hold(job.id)
    job.pencilled = (job.id, job.record.attempts + 1)
    state.fleet.take_seat(worker, job.pencilled, state.now)
    _count_pencilled(state, job, 1)


def _count_pencilled(state: State, job: LiveJob, change: int) -> None:
    state.pencilled += change
    state.accounts.of(job.record.spec.tenant).pencilled += change


def rub_out(state: State, job: LiveJob) -> Worker | None:
    """Free the pencilled seat, if any; answers whose it was."""
    if job.pencilled is None:
        return None
    worker = state.fleet.leave_seat(job.pencilled, state.now)
    job.pencilled = None
    _count_pencilled(state, job, -1)
    state.touch(worker)
    return worker


def _answered(
    state: State, job: LiveJob, leaning: Leaning, others: Callable[[Worker], Reasons], answer: Answer | Unanswered
) -> None:
    """The script named a worker, none of those offered, or nothing that counts: then the first by rank is taken.

    `others` says of those that were not taken why not.
    """
    first = rub_out(state, job)
    if answer is None and job.declined:
        job.said.clear()  # told once; it may go on all night
    asking.explain(state, job)
    if answer is None:
        delay_s = min(state.settings.declined_first_s * 2.0**job.declined, state.settings.declined_max_s)
        job.declined = min(job.declined + 1, 16)
        state.timers.set(Bell.BACKOFF, job.id, state.now + delay_s)
        return
    worker = first if isinstance(answer, Unanswered) else state.fleet.workers.get(WorkerId(str(answer)))
    entry = state.queue.entry(job.id)
    assert entry is not None
    key, shape, _ = entry
    may_start = key.tier is Tier.FIRST or tenants.may_start(state, job.record.spec)
    if worker is None or not may_start or not _still_takes(state, shape, worker):
        _ask_again(state, job)
        return
    job.declined = job.stale = 0
    by = f" by {state.policy_name}" if not isinstance(answer, Unanswered) else ""
    _dispatch(state, job, worker, shape, others(worker), by + leaning.told(worker))


def _still_takes(state: State, shape: Shape, worker: Worker) -> bool:
    """The worker was offered; meanwhile it may have filled up, been lost, or begun to drain."""
    return worker.open_key is not None and usable(state.fleet, worker) and hard_misfit(shape, worker) is None


def _ask_again(state: State, job: LiveJob) -> None:
    """The named worker cannot take the job any more: offer the job again, ever less eagerly."""
    job.stale += 1
    if job.stale <= state.settings.stale_answers_max:
        state.queue.offer(job.id)
        state.unplaced.append(job.id)
    else:
        state.timers.set(Bell.BACKOFF, job.id, state.now + state.settings.declined_first_s)


def _dispatch(state: State, job: LiveJob, worker: Worker, shape: Shape, others: Reasons, why: str) -> None:
    record = job.record
    if job.bounces <= BOUNCES_EXPLAINED_MAX:
        state.explain(job.id, "placed", worker.id, others, f"attempt {record.attempts + 1}{why}")
    state.queue.remove(job.id)
    state.queue.left(shape.lane, state.now)
    for bell in (Bell.QUEUE, Bell.REUNION, Bell.BACKOFF):
        state.timers.clear(bell, job.id)
    state.watching.pop(job.id, None)
    state.move(
        job,
        Happening.PLACED,
        attempts=record.attempts + 1,
        worker_id=worker.id,
        model=worker.spec.model,
        dispatched_at=state.now if record.dispatched_at is None else record.dispatched_at,
    )
    state.fleet.take_seat(worker, job.seat, state.now)
    tenants.on_worker(state, job, shape)
    if record.spec.session_id is not None:
        _remember_session(state, record.spec.tenant, record.spec.session_id, worker.id)
    state.keep_job(job)
    state.do(
        Dispatch(
            job_id=job.id,
            attempt=job.record.attempts,
            worker_id=worker.id,
            url=worker.spec.url,
            early=job.attached,
            first_token_timeout_s=job.timeouts.first_token_s,
            stall_timeout_s=job.timeouts.stall_s,
            deadline_at=job.total_limit_at,
        )
    )


def _remember_session(state: State, tenant: TenantId, session: SessionId, worker_id: WorkerId) -> None:
    state.sessions[tenant, session] = worker_id
    state.sessions.move_to_end((tenant, session))
    if len(state.sessions) > state.settings.sessions_max:
        state.sessions.popitem(last=False)
