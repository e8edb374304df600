"""How long a job will probably take, learned from those before it, and whether its deadline leaves that long."""

from __future__ import annotations

from llorch.base import errors
from llorch.core.fairness import Flow, QueueKey
from llorch.core.job import JobRecord, Result
from llorch.core.state import State
from llorch.core.tenants import Refusal


def learn(state: State, record: JobRecord, result: Result) -> None:
    """A worker finished the job; only undisturbed ones teach."""
    if record.attempts != 1 or record.first_token_at is None or record.dispatched_at is None or not result.tokens_out:
        return
    decode_s = result.decode_time_ms / 1000 or state.now - record.first_token_at
    for lane in (record.model, None):
        speed = state.speeds.of(lane)
        speed.ttft_s.note(record.first_token_at - record.dispatched_at)
        speed.token_s.note(decode_s / result.tokens_out)
        speed.tokens_out.note(result.tokens_out)


def refusal(state: State, record: JobRecord, key: QueueKey, *, at_once: bool) -> Refusal | None:
    """The deadline will pass before the job is done, as far as was learned; None: it will not, or who knows."""
    spec = record.spec
    if spec.deadline_s is None:
        return None
    speed = state.speeds.of(spec.model)
    if not speed.known(state.settings.forecast_jobs_min):
        return None
    wait_s = 0.0 if at_once else _wait_s(state, record, key)
    if wait_s is None:
        return None
    expected_s = wait_s + speed.expected_s(spec.max_tokens)
    left_s = record.accepted_at + spec.deadline_s - state.now
    if expected_s <= left_s:
        return None
    message = (
        f"the job would end in about {expected_s:.1f} s, {wait_s:.1f} s of them waiting;"
        f" its deadline is in {left_s:.1f} s"
    )
    return Refusal(errors.DeadlineUnmet.code, message)


def _wait_s(state: State, record: JobRecord, key: QueueKey) -> float | None:
    lane, flow = record.spec.model, Flow(record.spec.tenant, record.spec.session_id)
    position = state.queue.position_of_newcomer(key, flow, lane)
    return state.queue.eta_in(lane, position, state.now)
