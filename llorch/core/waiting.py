"""How a job waits: what it demands, where it stands, and what looks after it meanwhile."""

from __future__ import annotations

from bisect import bisect_left
from math import inf

from llorch.base.ids import ModelId, WorkerId
from llorch.core import tenants
from llorch.core.fairness import QueueKey, Tier
from llorch.core.fit import covered
from llorch.core.job import Priority
from llorch.core.queue import Shape
from llorch.core.state import LiveJob, State
from llorch.core.timers import Bell
from llorch.core.want import Want

# The delay of a job that waits for the policy script's word and is offered to nobody before.
ASKED = inf


def shape_of(state: State, job: LiveJob) -> Shape:
    """What the job demands now. A job whose client knows its model stays with it."""
    spec = job.record.spec
    lane = job.record.model if job.model_told else spec.model
    wishes = spec.wishes
    need = job.context_need
    if need:
        # Rounded up to a context some worker has, so that there are as many shapes as kinds of workers.
        contexts = state.fleet.contexts(lane)
        at = bisect_left(contexts, need)
        need = contexts[at] if 0 < at < len(contexts) else 0
    return Shape(
        lane=lane,
        pin_worker=None if wishes.pin_worker is None else WorkerId(wishes.pin_worker),
        pin_pool=wishes.pin_pool,
        only_pools=wishes.prefer_pools if not wishes.allow_fallback else (),
        avoid_pools=wishes.avoid_pools,
        context=need,
        exact=job.need_exact,
        shun=job.shun,
    )


def key_of(state: State, job: LiveJob) -> QueueKey:
    """The job's place among those of its tenant and session."""
    since = job.record.accepted_at + job.handicap_s
    tier = Tier.NORMAL
    if job.continuing or job.restarted:
        tier = Tier.FIRST
    elif job.handicap_s < 0:
        tier = Tier.URGENT
    elif since > state.now:
        tier = Tier.BACKGROUND
    return QueueKey(tier, since, job.record.sequence, job.id)


def watch_ageing(state: State) -> None:
    """Be woken when the first of the background jobs has waited off its handicap."""
    at = state.queue.next_promotion()
    if at is not None:
        state.timers.set(Bell.AGEING, "", at)


def wait(state: State, job: LiveJob, delay_s: float = 0.0) -> None:
    """Put a QUEUED job into the queue; with a delay it keeps its place but is not offered before. ASKED: see there."""
    record = job.record
    key = key_of(state, job)
    shape = shape_of(state, job)
    held = delay_s > 0
    batch = record.spec.priority is Priority.BATCH
    state.queue.promote(state.now)  # this may be the first event since the bell was due
    state.queue.push(key, shape, tenants.flow_of(job), batch=batch, held=held)
    if key.tier is Tier.BACKGROUND and state.queue.next_promotion() == key.since:
        watch_ageing(state)
    if not held:
        state.unplaced.append(job.id)
    elif delay_s < ASKED:
        state.timers.set(Bell.BACKOFF, job.id, state.now + delay_s)
    if job.continuing:
        state.timers.set(Bell.REUNION, job.id, state.patience(state.now + state.settings.continue_wait_s))
    if job.timeouts.queue_s is not None:
        state.timers.set(Bell.QUEUE, job.id, state.patience(record.queued_since + job.timeouts.queue_s))
    if not held:
        watch_pins(state, shape)
        _stir(state, shape)
    watch(state, job)


def _stir(state: State, shape: Shape) -> None:
    """Somebody is offered whom no worker may serve: see about loading one."""
    if state.book.on_demand and not state.book.stirred and not covered(state.fleet, Want.of(shape)):
        state.book.stirred = True


def reshape(state: State, lane: ModelId | None) -> None:
    """A context length never seen before was announced: what its jobs demand has to be rounded anew."""
    for job_id in state.queue.of_lane(lane):
        state.queue.reshape(job_id, shape_of(state, state.jobs[job_id]))


def watch_pins(state: State, shape: Shape) -> None:
    """A pinned job is offered: see from time to time whether its pin can still be met."""
    if (shape.pin_worker or shape.pin_pool) and not state.timers.armed(Bell.PINS, ""):
        state.timers.set(Bell.PINS, "", state.now + state.settings.lease_s)


def watch(state: State, job: LiveJob) -> None:
    """Tell an attached client its job's place from time to time, until it was told that the job started."""
    if not job.attached or job.record.started_at is not None:
        return
    state.watching[job.id] = None
    if not state.timers.armed(Bell.ANNOUNCE, ""):
        state.timers.set(Bell.ANNOUNCE, "", state.now + state.settings.announce_every_s)
