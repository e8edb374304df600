"""The door: which job is taken, which is refused and with what code, before anything is promised."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from llorch.base import errors
from llorch.base.ids import JobId, ModelId, TenantId
from llorch.core import asking, forecast, journey, loading, sessions, tenants, waiting
from llorch.core.asking import Unanswered
from llorch.core.effects import Accept, CancelCause, CountTokens, Duplicate, Refuse
from llorch.core.events import CatalogRead
from llorch.core.fleet import Worker
from llorch.core.hooks import Answer, ChangedTimeouts, queue_argument
from llorch.core.job import JobRecord, JobSpec, JobState
from llorch.core.placement import hard_misfit, pin_problem, takes, usable
from llorch.core.policy import Hook, QueueView, Rejection, TaskView, WhenFull
from llorch.core.settings import UNBOUNDED
from llorch.core.state import LiveJob, State
from llorch.core.timers import Bell
from llorch.core.transitions import Happening

AT_DOOR = (Hook.ADMIT, Hook.PRIORITIZE, Hook.TIMEOUT)
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
    named = tenants.model_for(state, spec.tenant) if spec.model is None else spec.model
    meant = model_meant(state, named)
    if meant != spec.model:
        spec = replace(spec, model=meant)
    earlier = _earlier(state, spec)
    if earlier is not None:
        state.do(Duplicate(spec.job_id, earlier))
        return
    job = new_live_job(state, JobRecord(spec, JobState.ADMITTING, state.now, state.sequence, queued_since=state.now))
    state.sequence += 1
    if not state.draining and (limit := tenants.too_fast(state, spec)) is not None:
        refuse(state, job, *limit)
        return
    if _refused(state, job):
        return
    hooks = [hook for hook in AT_DOOR if hook in state.scripted]
    if not hooks:
        job.rejection = state.policy.admit(job.view)
        _hear_rejection(state, job)
        return
    _hold(state, job)
    for hook in hooks:
        context = {} if hook is Hook.TIMEOUT else {"ctx": _context(state, spec.tenant)}
        asking.ask(state, job, hook, partial(_answered, state, job, hook), **context)


def _context(state: State, tenant: TenantId) -> dict[str, object]:
    """`ctx` of `admit` and `prioritize`: how busy we are, and with whose jobs."""
    return {
        "queue_depth": state.depth,
        "running": state.running(),
        "workers": state.fleet.live_count(),
        "tenant": tenants.context(state, tenant),
    }


def _answered(state: State, job: LiveJob, hook: Hook, answer: Answer | Unanswered) -> None:
    """The script's word on a job at the door; the last one lets it go on."""
    if isinstance(answer, Rejection):
        job.rejection = answer
    elif isinstance(answer, float):
        job.handicap_s = answer
        job.record = replace(job.record, handicap_s=answer)
    elif isinstance(answer, ChangedTimeouts):
        job.timeouts = answer.over(job.timeouts)
        job.record = replace(job.record, timeouts=job.timeouts)
    elif isinstance(answer, Unanswered) and hook is Hook.ADMIT:
        job.rejection = state.policy.admit(job.view)
    if not job.questions:
        _let_go(state, job)
        if not _repeated(state, job) and not _refused(state, job):
            _hear_rejection(state, job)


def _hear_rejection(state: State, job: LiveJob) -> None:
    """The policy has spoken: turn the job away, or see whether its tokens have to be counted."""
    if job.rejection is not None:
        wait_s = job.rejection.retry_after_s
        wait_s = retry_after_s(state) if wait_s is None else wait_s
        refuse(state, job, errors.AdmissionRejected.code, job.rejection.message, wait_s)
        return
    counter = _needs_count(state, job)
    if counter is None:
        admit(state, job)
        return
    _hold(state, job)
    state.timers.set(Bell.COUNT, job.id, state.now + state.settings.count_timeout_s)
    state.do(CountTokens(job.id, counter.id, counter.spec.url, state.settings.count_timeout_s))


def _hold(state: State, job: LiveJob) -> None:
    """The job stands at the door until something is known."""
    state.jobs[job.id] = job
    tenants.enter(state, job)
    state.admitting += 1


def _let_go(state: State, job: LiveJob) -> None:
    """What the job stood at the door for is known."""
    del state.jobs[job.id]
    tenants.leave(state, job)
    state.admitting -= 1


def catalog_read(state: State, event: CatalogRead) -> None:
    """The models and names that clients may use from now on."""
    state.known_models, state.aliases = event.known_models, dict(event.aliases)


def model_meant(state: State, name: ModelId | None) -> ModelId | None:
    """The model behind an alias of the catalog, unless some worker uses the alias as its model's id."""
    return name if name is None or name in state.fleet.models else state.aliases.get(name, name)


def new_live_job(state: State, record: JobRecord) -> LiveJob:
    """The working form of a record, fresh or restored."""
    spec = record.spec
    view = TaskView.of(spec)
    timeouts = state.policy.timeout(view) if record.timeouts is None else record.timeouts
    handicap_s = state.policy.prioritize(view) if record.handicap_s is None else record.handicap_s
    job = LiveJob(record, view, timeouts, spec.attached, handicap_s)
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


def _repeated(state: State, job: LiveJob) -> bool:
    """While the job stood at the door another one with its idempotency key came in."""
    earlier = _earlier(state, job.record.spec)
    if earlier is not None:
        state.do(Duplicate(job.id, earlier))
    return earlier is not None


def refuse(
    state: State, job: LiveJob, code: str, message: str, retry_after_s: float | None = None, **details: object
) -> None:
    """Turn the job away; nothing of it is remembered."""
    if state.jobs.pop(job.id, None) is not None:
        state.admitting -= 1
        state.timers.clear_job(job.id)
        asking.drop(state, job)
    tenants.leave(state, job)
    state.do(Refuse(job.id, code, message, retry_after_s, dict(details) or None))


def _refused(state: State, job: LiveJob) -> bool:
    """Everything that can be said without counting tokens."""
    spec = job.record.spec
    if state.draining:
        refuse(state, job, errors.Draining.code, "orchestratord is shutting down")
    elif not model_known(state, spec.model):
        refuse(state, job, errors.ModelNotFound.code, f"no catalog and no worker knows the model {spec.model}")
    elif spec.deadline_s is not None and state.now >= job.record.accepted_at + spec.deadline_s:
        refuse(state, job, errors.DeadlineUnmet.code, "the deadline has passed already")
    elif (problem := pin_problem(state.fleet, spec.wishes, spec.model)) is not None:
        refuse(state, job, problem.code, problem.message)
    elif (limit := tenants.refusal(state, job) or sessions.refusal(state, job.record)) is not None:
        refuse(state, job, *limit)
    else:
        return False
    return True


def model_known(state: State, model: ModelId | None) -> bool:
    """Some worker, the catalog or a pool has it; None: any will do."""
    known = (state.fleet.models, state.known_models, state.book.models)
    return model is None or any(model in models for models in known)


def _largest(state: State, job: LiveJob) -> Worker | None:
    """The ready worker with the longest context among those that could serve the job at all."""
    ready = [worker for worker in state.fleet.ready(job.record.spec.model) if usable(state.fleet, worker)]
    if not ready:
        return None
    shape = waiting.shape_of(state, job)._replace(context=0)
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
    _let_go(state, job)
    state.timers.clear(Bell.COUNT, job.id)
    if prompt_tokens is not None:
        job.record = replace(job.record, spec=replace(job.record.spec, prompt_tokens=prompt_tokens))
        job.needs(prompt_tokens + (job.record.spec.max_tokens or 1))
    if not _repeated(state, job) and not _refused(state, job):
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
    at_once = _can_start(state, job)
    if _too_long(state, job) or _too_late(state, job, at_once=at_once):
        return
    if at_once:
        _take(state, job, at_once=True)
    elif (limit := tenants.too_many(state, job.record.spec)) is not None:
        refuse(state, job, limit.code, limit.message, retry_after_s(state))
    elif _has_room(state):
        _take(state, job, at_once=False)
    elif Hook.ON_QUEUE_FULL in state.scripted:
        queue = queue_argument(_queue_view(state))
        _hold(state, job)
        then = partial(_answered_when_full, state, job)
        asking.ask(state, job, Hook.ON_QUEUE_FULL, then, queue=queue)
    else:
        _make_room(state, job, state.policy.on_queue_full(job.view, _queue_view(state)))


def _answered_when_full(state: State, job: LiveJob, answer: Answer | Unanswered) -> None:
    _let_go(state, job)
    if _repeated(state, job) or _refused(state, job) or _too_long(state, job):
        return
    if not isinstance(answer, WhenFull):
        answer = state.policy.on_queue_full(job.view, _queue_view(state))
    _make_room(state, job, answer)


def _take(state: State, job: LiveJob, *, at_once: bool) -> None:
    """The job is in: commit, then answer 202."""
    spec = job.record.spec
    state.move(job, Happening.ADMITTED)
    state.jobs[job.id] = job
    tenants.enter(state, job)
    sessions.used(state, job.record)
    state.retries.accepted(state.now)
    if spec.idempotency_key is not None:
        state.remember_key(spec.tenant, spec.idempotency_key, job.id)
    limit = job.total_limit_at
    if limit is not None:
        state.timers.set(Bell.TOTAL, job.id, limit)
    state.keep_job(job)
    waiting.wait(state, job)
    position = state.queue.position(job.id) or 0
    job.position_told = position
    state.explain(job.id, "admitted", None, (), f"position {position}")
    asking.explain(state, job)
    tenants.tell_parked(state, job)
    state.do(Accept(job.id, position, 0.0 if at_once else state.queue.eta_s(job.id, position, state.now)))
    loading.tell(state, job)


def _idle_worker(state: State, job: LiveJob) -> bool:
    """Some worker can start the job in this very turn: nobody who could have it waits, or it would be busy."""
    model = job.record.spec.model
    if not state.fleet.any_open(model):
        return False
    shape = waiting.shape_of(state, job)
    return any(takes(state.fleet, shape, worker) for worker in state.fleet.open(model))


def _can_start(state: State, job: LiveJob) -> bool:
    """Some worker can start the job in this very turn, and its tenant may have one more running."""
    spec = job.record.spec
    return _idle_worker(state, job) and tenants.may_start(state, spec) and not _may_be_declined(state, spec)


def _may_be_declined(state: State, spec: JobSpec) -> bool:
    """A script that declines leaves jobs waiting beside idle workers: when too many do, no more come in by those."""
    if Hook.CHOOSE_WORKER not in state.scripted:
        return False
    capacity = state.settings.queue_capacity
    full = capacity != UNBOUNDED and state.depth - state.pencilled > capacity
    return full or tenants.left_waiting(state, spec)


def _too_late(state: State, job: LiveJob, *, at_once: bool) -> bool:
    """Refuse a job that will not be done before its deadline, as far as was learned."""
    if job.record.spec.deadline_s is None:
        return False
    limit = forecast.refusal(state, job.record, waiting.key_of(state, job), at_once=at_once)
    if limit is not None:
        refuse(state, job, *limit)
    return limit is not None


def _has_room(state: State) -> bool:
    capacity = state.settings.queue_capacity
    return capacity == UNBOUNDED or state.depth < capacity


def _queue_view(state: State) -> QueueView:
    return QueueView(state.depth, state.settings.queue_capacity, state.queue.oldest_batch())


def _make_room(state: State, job: LiveJob, verdict: WhenFull) -> None:
    """The queue is full, or was when the policy was asked: do what it says."""
    oldest = state.queue.oldest_batch()
    if not _has_room(state) and verdict is WhenFull.DROP_OLDEST_BATCH and oldest is not None:
        later = retry_after_s(state)
        journey.give_up(state, state.jobs[oldest], errors.QueueFull.code, "dropped to make room in the queue", later)
    if _has_room(state):
        _take(state, job, at_once=False)
    else:
        refuse(state, job, errors.QueueFull.code, f"the queue holds {state.depth} jobs already", retry_after_s(state))


def retry_after_s(state: State) -> float:
    """Seconds until a place comes free at the learned speed, 1 to 120."""
    rate = state.queue.rate.per_s(state.now)
    expected = RETRY_AFTER_UNKNOWN_S if rate is None else 1 / rate
    return min(max(expected, 1.0), float(errors.RETRY_AFTER_MAX_S))
