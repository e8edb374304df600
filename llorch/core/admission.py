"""The door: which job is taken, which is refused and with what code, before anything is promised."""

from __future__ import annotations

from dataclasses import replace

from llorch.base import errors
from llorch.base.ids import JobId, ModelId
from llorch.core import journey
from llorch.core.effects import Accept, CancelCause, CountTokens, Duplicate, Refuse
from llorch.core.events import CatalogRead
from llorch.core.fleet import Worker
from llorch.core.job import JobRecord, JobSpec, JobState
from llorch.core.placement import hard_misfit, pin_problem, takes, usable
from llorch.core.policy import QueueView, TaskView, WhenFull
from llorch.core.settings import UNBOUNDED
from llorch.core.state import LiveJob, State
from llorch.core.timers import Bell
from llorch.core.transitions import Happening

RETRY_AFTER_UNKNOWN_S = 10.0
# A tokenizer makes at most one token a byte, but adds one for the start; a chat template adds what it likes, so that a
# chat is believed to fit only when it is well below.
START_TOKENS = 1
TEMPLATE_TOKENS = 256
TEMPLATE_TOKENS_A_MESSAGE = 16


def submit(state: State, spec: JobSpec) -> None:
    """A client asks for a job: refuse, answer with the earlier one, count its tokens first, or take it."""
    if spec.job_id in state.jobs:
        return
    meant = _model_meant(state, spec.model)
    if meant != spec.model:
        spec = replace(spec, model=meant)
    earlier = _earlier(state, spec)
    if earlier is not None:
        state.do(Duplicate(spec.job_id, earlier))
        return
    job = new_live_job(state, JobRecord(spec, JobState.ADMITTING, state.now, state.sequence, queued_since=state.now))
    state.sequence += 1
    if _refused(state, job):
        return
    counter = _needs_count(state, job)
    if counter is None:
        admit(state, job)
        return
    state.jobs[job.id] = job
    state.admitting += 1
    state.timers.set(Bell.COUNT, job.id, state.now + state.settings.count_timeout_s)
    state.do(CountTokens(job.id, counter.id, counter.spec.url, state.settings.count_timeout_s))


def catalog_read(state: State, event: CatalogRead) -> None:
    """The models and names that clients may use from now on."""
    state.known_models, state.aliases = event.known_models, dict(event.aliases)


def _model_meant(state: State, name: ModelId | None) -> ModelId | None:
    """The model behind an alias of the catalog, unless some worker uses the alias as its model's id."""
    return name if name is None or name in state.fleet.models else state.aliases.get(name, name)


def new_live_job(state: State, record: JobRecord) -> LiveJob:
    """The working form of a record, fresh or restored."""
    spec = record.spec
    view = TaskView.of(spec)
    job = LiveJob(record, view, state.policy.timeout(view), spec.attached, state.policy.prioritize(view))
    # A default max_tokens gives way to the context; one the client chose does not.
    if spec.prompt_tokens is not None:
        job.needs(spec.prompt_tokens + (spec.max_tokens or 1))
    else:
        job.needs_at_most(_prompt_tokens_max(spec) + (spec.max_tokens or 1))
    return job


def _prompt_tokens_max(spec: JobSpec) -> int:
    if spec.messages == 0:
        return spec.prompt_bytes + START_TOKENS
    return spec.prompt_bytes + TEMPLATE_TOKENS + TEMPLATE_TOKENS_A_MESSAGE * spec.messages


def not_stored(state: State, job_id: JobId) -> None:
    """The commit that let the job in failed: nothing of it is remembered, and its idempotency key is free."""
    state.forget_key(job_id)
    job = state.jobs.get(job_id)
    if job is not None:
        journey.stop_attempt(state, job, CancelCause.CLIENT)
        journey.forget(state, job)


def _earlier(state: State, spec: JobSpec) -> JobId | None:
    return None if spec.idempotency_key is None else state.keys.get((spec.tenant, spec.idempotency_key))


def refuse(
    state: State, job: LiveJob, code: str, message: str, retry_after_s: float | None = None, **details: object
) -> None:
    """Turn the job away; nothing of it is remembered."""
    if state.jobs.pop(job.id, None) is not None:
        state.admitting -= 1
        state.timers.clear_job(job.id)
    state.do(Refuse(job.id, code, message, retry_after_s, dict(details) or None))


def _refused(state: State, job: LiveJob) -> bool:
    """Everything that can be said without counting tokens."""
    spec = job.record.spec
    if state.draining:
        refuse(state, job, errors.Draining.code, "orchestratord is shutting down")
    elif not _model_known(state, spec):
        refuse(state, job, errors.ModelNotFound.code, f"no catalog and no worker knows the model {spec.model}")
    elif spec.deadline_s is not None and state.now >= job.record.accepted_at + spec.deadline_s:
        refuse(state, job, errors.DeadlineUnmet.code, "the deadline has passed already")
    elif (problem := pin_problem(state.fleet, spec.wishes, spec.model)) is not None:
        refuse(state, job, problem.code, problem.message)
    elif (rejection := state.policy.admit(job.view)) is not None:
        wait_s = retry_after_s(state) if rejection.retry_after_s is None else rejection.retry_after_s
        refuse(state, job, errors.AdmissionRejected.code, rejection.message, wait_s)
    else:
        return False
    return True


def _model_known(state: State, spec: JobSpec) -> bool:
    return spec.model is None or spec.model in state.fleet.models or spec.model in state.known_models


def _largest(state: State, job: LiveJob) -> Worker | None:
    """The ready worker with the longest context among those that could serve the job at all."""
    ready = [worker for worker in state.fleet.ready(job.record.spec.model) if usable(state.fleet, worker)]
    if not ready:
        return None
    shape = journey.shape_of(state, job)._replace(context=0)
    fitting = (worker for worker in ready if hard_misfit(shape, worker) is None)
    return max(fitting, key=lambda worker: (worker.spec.context_length, worker.id), default=None)


def _needs_count(state: State, job: LiveJob) -> Worker | None:
    """The worker to ask when bytes alone do not prove that the job fits."""
    spec = job.record.spec
    if spec.prompt_tokens is not None or _any_holds(state, job):
        return None
    largest = _largest(state, job)
    if largest is None or job.context_need <= largest.spec.context_length:
        return None
    if (spec.max_tokens or 1) >= largest.spec.context_length:
        return None
    return largest


def _any_holds(state: State, job: LiveJob) -> bool:
    """Quick answer for the usual case: the smallest context ever announced for the model holds the job."""
    contexts = state.fleet.contexts(job.record.spec.model)
    return bool(contexts) and job.context_need <= contexts[0]


def counted(state: State, job: LiveJob, prompt_tokens: int | None) -> None:
    """A worker counted the prompt, or could not (None: the dispatch will check)."""
    del state.jobs[job.id]
    state.admitting -= 1
    state.timers.clear(Bell.COUNT, job.id)
    if prompt_tokens is not None:
        job.record = replace(job.record, spec=replace(job.record.spec, prompt_tokens=prompt_tokens))
        job.needs(prompt_tokens + (job.record.spec.max_tokens or 1))
    earlier = _earlier(state, job.record.spec)
    if earlier is not None:
        state.do(Duplicate(job.id, earlier))
    elif not _refused(state, job):
        admit(state, job)


def _too_long(state: State, job: LiveJob) -> bool:
    """Refuse a job whose counted tokens, or whose max_tokens alone, no ready worker of its model can hold."""
    if _any_holds(state, job):
        return False
    largest = _largest(state, job)
    if largest is None:
        return False
    spec, context = job.record.spec, largest.spec.context_length
    needs = job.context_need if job.need_exact else (spec.max_tokens or 1) + 1
    if needs <= context:
        return False
    refuse(
        state,
        job,
        errors.ContextLengthExceeded.code,
        "the prompt and max_tokens do not fit the model's context",
        prompt_tokens=spec.prompt_tokens,
        max_tokens=spec.max_tokens,
        context_length=context,
    )
    return True


def admit(state: State, job: LiveJob) -> None:
    """Take the job if it fits and there is room: commit, then answer 202."""
    at_once = _idle_worker(state, job)
    if _too_long(state, job) or (not at_once and _no_room(state, job)):
        return
    spec = job.record.spec
    state.move(job, Happening.ADMITTED)
    state.jobs[job.id] = job
    if spec.idempotency_key is not None:
        state.remember_key(spec.tenant, spec.idempotency_key, job.id)
    limit = journey.total_limit_at(job)
    if limit is not None:
        state.timers.set(Bell.TOTAL, job.id, limit)
    state.keep_job(job)
    journey.wait(state, job)
    position = state.queue.position(job.id) or 0
    job.position_told = position
    state.explain(job.id, "admitted", None, (), f"position {position}")
    state.do(Accept(job.id, position, 0.0 if at_once else state.queue.eta_s(job.id, position, state.now)))


def _idle_worker(state: State, job: LiveJob) -> bool:
    """Some worker can start the job in this very turn: nobody who could have it waits, or it would be busy."""
    model = job.record.spec.model
    if not state.fleet.any_open(model):
        return False
    shape = journey.shape_of(state, job)
    return any(takes(state.fleet, shape, worker) for worker in state.fleet.open(model))


def _no_room(state: State, job: LiveJob) -> bool:
    """The queue is full and policy makes no room."""
    capacity = state.settings.queue_capacity
    if capacity == UNBOUNDED or state.depth < capacity:
        return False
    oldest = state.queue.oldest_batch()
    verdict = state.policy.on_queue_full(job.view, QueueView(state.depth, capacity, oldest))
    if verdict is WhenFull.DROP_OLDEST_BATCH and oldest is not None:
        later = retry_after_s(state)
        journey.give_up(state, state.jobs[oldest], errors.QueueFull.code, "dropped to make room in the queue", later)
        return False
    refuse(state, job, errors.QueueFull.code, f"the queue holds {state.depth} jobs already", retry_after_s(state))
    return True


def retry_after_s(state: State) -> float:
    """Seconds until a place comes free at the learned speed, 1 to 120."""
    rate = state.queue.rate.per_s(state.now)
    expected = RETRY_AFTER_UNKNOWN_S if rate is None else 1 / rate
    return min(max(expected, 1.0), float(errors.RETRY_AFTER_MAX_S))
