"""Declared sessions: opened by clients, kept while they are used, with budgets that are looked at when a job comes.

A session that a job names and nobody opened has affinity and a fair share like others, but nothing of it is stored.
"""

from __future__ import annotations

from dataclasses import replace

from llorch.base import errors
from llorch.base.ids import SessionId, TenantId
from llorch.core.effects import RefuseSession, SessionForgotten
from llorch.core.events import SessionClosed, SessionOpened
from llorch.core.fairness import Flow
from llorch.core.job import Ending, JobRecord
from llorch.core.session import SessionRecord
from llorch.core.state import State
from llorch.core.tenants import Refusal, prompt_tokens
from llorch.core.timers import Bell


def opened(state: State, event: SessionOpened) -> None:
    """Remember the session; when there are too many, the one that is unused for longest makes room.

    One more than a tenant may have is refused; one that is open already gets its new limits all the same.
    """
    known = state.opened.get((event.tenant, event.session_id))
    if known is None:
        most = state.settings.sessions_of_tenant_max
        if sum(tenant == event.tenant for tenant, _ in state.opened) >= most:
            message = f"{most} sessions of tenant {event.tenant} are open already: close one"
            state.do(RefuseSession(event.tenant, event.session_id, errors.QuotaExceeded.code, message))
            return
        known = SessionRecord(event.session_id, event.tenant, event.limits, state.now, state.now)
    record = replace(known, limits=event.limits, used_at=state.now)
    _use(state, record)
    state.timers.set(Bell.SESSION, _bell_name(record), state.now + event.limits.ttl_s)
    state.keep_session(record)
    if len(state.opened) > state.settings.sessions_max:
        unused = (other for other in state.opened.values() if other is not record and not _live(state, other))
        oldest = next(unused, None)
        if oldest is not None:
            _forget(state, oldest)


def closed(state: State, event: SessionClosed) -> None:
    """Nothing of it is remembered; its jobs go on."""
    record = state.opened.get((event.tenant, event.session_id))
    state.sessions.pop((event.tenant, event.session_id), None)
    if record is not None:
        _forget(state, record)


def refusal(state: State, record: JobRecord) -> Refusal | None:
    """The job's session has used up one of its budgets."""
    session = _of(state, record)
    if session is None:
        return None
    limits, used = session.limits, None
    if limits.tokens_max is not None and session.tokens_used >= limits.tokens_max:
        used = f"{session.tokens_used} of {limits.tokens_max} tokens"
    elif limits.time_max_s is not None and session.time_used_s >= limits.time_max_s:
        used = f"{session.time_used_s:.1f} of {limits.time_max_s:g} seconds of decoding"
    if used is None:
        return None
    message = f"session {session.session_id} has used {used}"
    return Refusal(errors.QuotaExceeded.code, message, float(errors.RETRY_AFTER_MAX_S))


def used(state: State, record: JobRecord) -> None:
    """A job of it was let in."""
    session = _of(state, record)
    if session is not None:
        _use(state, replace(session, used_at=state.now))


def ended(state: State, record: JobRecord, ending: Ending) -> None:
    """Book what a job of it took that ended with a result."""
    session, result = _of(state, record), ending.result
    if session is None or result is None:
        return
    session = replace(
        session,
        used_at=state.now,
        turns=session.turns + 1,
        tokens_used=session.tokens_used + prompt_tokens(record, ending) + result.tokens_out,
        time_used_s=session.time_used_s + result.decode_time_ms / 1000,
    )
    _use(state, session)
    state.keep_session(session)


def ttl_over(state: State, name: str) -> None:
    """A session may have been unused for its time; with live jobs it is in use."""
    tenant, _, session_id = name.rpartition("/")
    record = state.opened[TenantId(tenant), SessionId(session_id)]
    used_at = state.now if _live(state, record) else record.used_at
    until = used_at + record.limits.ttl_s
    if until > state.now:
        state.timers.set(Bell.SESSION, name, until)
    else:
        state.sessions.pop((record.tenant, record.session_id), None)
        _forget(state, record)


def restore(state: State, stored: tuple[SessionRecord, ...]) -> None:
    """After a restart: the longest unused first, as they stood."""
    for record in sorted(stored, key=lambda record: record.used_at):
        _use(state, record)


def _of(state: State, record: JobRecord) -> SessionRecord | None:
    name = record.spec.session_id
    return None if name is None else state.opened.get((record.spec.tenant, name))


def _live(state: State, record: SessionRecord) -> bool:
    return state.queue.shares.live(Flow(record.tenant, record.session_id)) > 0


def _bell_name(record: SessionRecord) -> str:
    return f"{record.tenant}/{record.session_id}"


def _use(state: State, record: SessionRecord) -> None:
    state.opened[record.tenant, record.session_id] = record
    state.opened.move_to_end((record.tenant, record.session_id))
    # One bell a session, set once: when it rings too early it is set again for what is left.
    name, until = _bell_name(record), record.used_at + record.limits.ttl_s
    if not state.timers.armed(Bell.SESSION, name):
        state.timers.set(Bell.SESSION, name, until)


def _forget(state: State, record: SessionRecord) -> None:
    del state.opened[record.tenant, record.session_id]
    state.timers.clear(Bell.SESSION, _bell_name(record))
    state.keep_no_session(SessionForgotten(record.tenant, record.session_id))
