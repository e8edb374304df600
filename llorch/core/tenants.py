"""What tenants may take: limits at the door, fair shares and parking at dispatch, usage at the end."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from llorch.base import errors
from llorch.base.ids import ModelId, TenantId
from llorch.core.accounts import Account
from llorch.core.events import TenantsRead
from llorch.core.fairness import Flow
from llorch.core.job import Ending, JobRecord, JobSpec, JobState
from llorch.core.queue import Shape
from llorch.core.state import LiveJob, State
from llorch.core.tenant import DAY_S, UsageRecord

DEFAULT_TOKENS_MAX = 256  # what a job may generate that does not say
BYTES_A_TOKEN = 4


class Refusal(NamedTuple):
    """Why a job is not let in; `code` is one of base.errors."""

    code: str
    message: str
    retry_after_s: float | None = None


def read(state: State, event: TenantsRead) -> None:
    """The limits that hold from now on, for what waits already as well."""
    for account in state.accounts.read(event.limits, event.default):
        state.queue.shares.of(account.tenant).weight = account.limits.weight
        _park_or_unpark(state, account)
    # More than one job may go now, so offering the first of each line would not do.
    for model in state.fleet.models:
        state.shaken[model] = None


def context(state: State, tenant: TenantId) -> dict[str, object]:
    """What a policy script is told of a tenant."""
    account = state.accounts.of(tenant)
    today = account.today(state.now)
    return {
        "running": account.running,
        "waiting": account.waiting,
        "tokens_today": today.prompt_tokens + today.tokens_out,
    }


def flow_of(job: LiveJob) -> Flow:
    return Flow(job.record.spec.tenant, job.record.spec.session_id)


def model_for(state: State, tenant: TenantId) -> ModelId | None:
    """The model meant by a tenant that names none: any, or the first it may use, a ready one before others."""
    models = state.accounts.of(tenant).limits.models
    if not models:
        return None
    return next((model for model in models if any(state.fleet.ready(model))), models[0])


def too_fast(state: State, spec: JobSpec) -> Refusal | None:
    """Count one request; refused ones are not counted."""
    account = state.accounts.of(spec.tenant)
    rate = account.limits.requests_per_s
    wait_s = 0.0 if rate is None else account.gate.take(rate, state.now)
    if wait_s == 0.0:
        return None
    message = f"tenant {spec.tenant} may make {rate:g} requests a second"
    return Refusal(errors.RateLimited.code, message, min(wait_s, float(errors.RETRY_AFTER_MAX_S)))


def refusal(state: State, job: LiveJob) -> Refusal | None:
    """What the tenant may not: this model, or so many more tokens today."""
    spec = job.record.spec
    account = state.accounts.of(spec.tenant)
    limits = account.limits
    if limits.models is not None and spec.model not in limits.models:
        return Refusal(errors.ModelNotFound.code, f"this key may not use the model {spec.model}")
    if limits.tokens_per_day is None:
        return None
    today = account.today(state.now)
    used = today.prompt_tokens + today.tokens_out
    reserved = account.reserved - (job.reserved or 0)
    if used + reserved + need(spec) <= limits.tokens_per_day:
        return None
    message = (
        f"tenant {spec.tenant} used {used} of {limits.tokens_per_day} tokens today, its live jobs may need {reserved}"
        f" and this one {need(spec)}"
    )
    wait_s = min(DAY_S - state.now % DAY_S, float(errors.RETRY_AFTER_MAX_S))
    return Refusal(errors.QuotaExceeded.code, message, wait_s)


def too_many(state: State, spec: JobSpec) -> Refusal | None:
    """As many of its jobs wait as may."""
    account = state.accounts.of(spec.tenant)
    most = account.limits.queued_max
    if most is None or account.waiting < most:
        return None
    message = f"{account.waiting} jobs of tenant {spec.tenant} wait already, {most} may"
    return Refusal(errors.QuotaExceeded.code, message)


def left_waiting(state: State, spec: JobSpec) -> bool:
    """More of its jobs wait than may, not counting those with a pencilled seat."""
    account = state.accounts.of(spec.tenant)
    most = account.limits.queued_max
    return most is not None and account.waiting - account.pencilled > most


def may_start(state: State, spec: JobSpec) -> bool:
    """The tenant has not as many jobs running as it may."""
    return not state.accounts.of(spec.tenant).at_limit


def need(spec: JobSpec) -> int:
    """The tokens the job may take: counted where they are, else by bytes as prompts usually are."""
    prompt = spec.prompt_bytes // BYTES_A_TOKEN if spec.prompt_tokens is None else spec.prompt_tokens
    return prompt + (spec.max_tokens or DEFAULT_TOKENS_MAX)


def enter(state: State, job: LiveJob) -> None:
    """The job is live, be it at the door or in: reserve what it may take. Again: what it may take is known better."""
    leave(state, job)
    account = state.accounts.of(job.record.spec.tenant)
    job.reserved = need(job.record.spec)
    account.live += 1
    account.reserved += job.reserved
    state.queue.shares.enter(flow_of(job))


def leave(state: State, job: LiveJob) -> None:
    """The job is not live any more, or never was."""
    if job.reserved is None:
        return
    off_worker(state, job)
    account = state.accounts.of(job.record.spec.tenant)
    account.live -= 1
    account.reserved -= job.reserved
    job.reserved = None
    state.queue.shares.leave(flow_of(job))


def on_worker(state: State, job: LiveJob, shape: Shape) -> None:
    """The job begins on a worker: charge the tokens it will probably generate; park a tenant at its limit."""
    account = state.accounts.of(job.record.spec.tenant)
    job.charged = max(0, _expected_tokens(account, job.record.spec) - job.tokens_relayed)
    job.sent_at = state.now
    account.running += 1
    state.queue.shares.charge(flow_of(job), job.charged)
    _park_or_unpark(state, account)
    share = state.queue.shares.of(account.tenant)
    if share.parked and (parked := state.queue.next_of(share, shape)) is not None:
        tell_parked(state, state.jobs[parked])


def _expected_tokens(account: Account, spec: JobSpec) -> int:
    most = spec.max_tokens or DEFAULT_TOKENS_MAX
    return min(round(account.tokens_out.value), most) if account.tokens_out.count else most


def off_worker(state: State, job: LiveJob) -> None:
    """No worker is on the job any more: charge what it really generated there, and let the tenant's next one go."""
    if job.charged is None:
        return
    account = state.accounts.of(job.record.spec.tenant)
    real = job.tokens_relayed - job.tokens_charged
    state.queue.shares.charge(flow_of(job), real - job.charged)
    job.tokens_charged, job.charged = job.tokens_relayed, None
    account.running -= 1
    _park_or_unpark(state, account)


def _park_or_unpark(state: State, account: Account) -> None:
    share = state.queue.shares.of(account.tenant)
    if account.at_limit == share.parked:
        return
    if account.at_limit:
        state.queue.shares.park(share)
    else:
        state.queue.shares.unpark(share)
        state.unplaced += state.queue.leading(share)


def tell_parked(state: State, job: LiveJob) -> None:
    """Explain, once, that the job waits for another of its tenant to end."""
    account = state.accounts.of(job.record.spec.tenant)
    if job.parked_told or not account.at_limit:
        return
    job.parked_told = True
    note = f"tenant {account.tenant} has {account.running} of {account.limits.running_max} jobs running"
    state.explain(job.id, "waiting", None, (), note)


def ended(state: State, record: JobRecord, ending: Ending) -> None:
    """Book what a job took that ended with a result."""
    result = ending.result
    if result is None:
        return
    account = state.accounts.of(record.spec.tenant)
    today = account.today(state.now)
    account.usage = replace(
        today,
        jobs=today.jobs + 1,
        prompt_tokens=today.prompt_tokens + prompt_tokens(record, ending),
        tokens_out=today.tokens_out + result.tokens_out,
    )
    state.keep_usage(account.usage)
    if ending.state is JobState.COMPLETED:
        account.tokens_out.note(result.tokens_out)


def prompt_tokens(record: JobRecord, ending: Ending) -> int:
    """The prompt's tokens as the worker reported or counted them; 0 when no worker ever had it."""
    reported = None if ending.result is None else ending.result.prompt_tokens
    if reported is not None:
        return reported
    return (record.spec.prompt_tokens or 0) if record.attempts else 0


def restore(state: State, usage: tuple[UsageRecord, ...]) -> None:
    """After a restart: what was taken today already."""
    for stored in usage:
        account = state.accounts.of(stored.tenant)
        if stored.day >= account.usage.day:
            account.usage = stored
