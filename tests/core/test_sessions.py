"""Opened sessions: budgets, turns, time to live, and how many there may be."""

from __future__ import annotations

from dataclasses import replace

from brain_given import SETTINGS, Story, a_job, dispatched, refusal, with_worker

from llorch.base.ids import JobId, SessionId, TenantId
from llorch.core.effects import Effect, Persist, RefuseSession, SessionForgotten
from llorch.core.events import AttemptEnded, Restarted, SessionClosed, SessionOpened
from llorch.core.job import Result
from llorch.core.session import SessionLimits, SessionRecord

ME = a_job().tenant
S = SessionId("s")


def opened(story: Story, name: str = "s", **limits: float) -> list[Effect]:
    return story.tell(SessionOpened(ME, SessionId(name), SessionLimits(**limits)))  # type: ignore[arg-type]


def forgotten(effects: list[Effect]) -> list[str]:
    records = [effect.record for effect in effects if isinstance(effect, Persist)]
    return [record.session_id for record in records if isinstance(record, SessionForgotten)]


def test_turns_tokens_and_time_add_up() -> None:
    """Each ending with a result is one turn with its prompt, its tokens and its seconds of decoding."""
    story = with_worker()
    opened(story)
    story.submit(session_id=S)
    effects = story.tell(AttemptEnded(JobId("j1"), 1, Result("EOS", 7, 5, decode_time_ms=1500)))
    record = story.brain.session(ME, S)
    assert record is not None and (record.turns, record.tokens_used, record.time_used_s) == (1, 12, 1.5)
    assert Persist(record) in effects
    assert story.brain.sessions(ME) == [record] and story.brain.sessions(TenantId("x")) == []


def test_a_used_up_budget_refuses_the_next_job() -> None:
    """At exactly its tokens or seconds a session has no more; one short of it, it has. New limits give it more."""
    story = with_worker()
    opened(story, tokens_max=24)
    for number in range(2):
        name = JobId(f"j{number}")
        assert dispatched(story.submit(name, session_id=S)) == [(name, "w1")]
        story.tell(AttemptEnded(name, 1, Result("EOS", 7, 5, decode_time_ms=1000)))
    refused = refusal(story.submit("j3", session_id=S))
    assert refused.code == "QUOTA_EXCEEDED" and refused.message == "session s has used 24 of 24 tokens"
    opened(story, time_max_s=2.0)
    assert "2.0 of 2 seconds" in refusal(story.submit("j4", session_id=S)).message
    opened(story, tokens_max=25)
    assert dispatched(story.submit("j5", session_id=S)) == [("j5", "w1")]


def test_one_too_many_of_a_tenant_is_refused() -> None:
    """The refusal changes nothing; an open one still gets new limits, and a closed one makes room."""
    story = Story(replace(SETTINGS, sessions_of_tenant_max=2))
    opened(story, "a")
    opened(story, "b")
    before = story.brain.sessions(ME)
    [refused] = opened(story, "c")
    assert isinstance(refused, RefuseSession) and (refused.session_id, refused.code) == ("c", "QUOTA_EXCEEDED")
    assert story.brain.sessions(ME) == before
    opened(story, "a", tokens_max=7)
    assert (record := story.brain.session(ME, SessionId("a"))) is not None and record.limits.tokens_max == 7
    story.tell(SessionClosed(ME, SessionId("b")))
    assert not [effect for effect in opened(story, "c") if isinstance(effect, RefuseSession)]


def test_an_unused_session_is_forgotten_and_one_with_live_jobs_is_not() -> None:
    """The time counts from the last use; a live job is use."""
    story = Story()
    opened(story, ttl_s=10.0)
    story.wait(8.0)
    story.submit(session_id=S)
    assert forgotten(story.wait(50.0)) == []
    story.cancel()
    assert forgotten(story.wait(9.9)) == []
    assert forgotten(story.wait(0.2)) == ["s"]
    assert story.brain.session(ME, S) is None


def test_the_longest_unused_session_makes_room() -> None:
    """Beyond `sessions_max` one is forgotten, but none with live jobs."""
    story = Story(replace(SETTINGS, sessions_max=2))
    opened(story, "s")
    opened(story, "r")
    story.submit(session_id=S)
    opened(story, "s")
    assert forgotten(opened(story, "q")) == ["r"]
    story.submit("j2", session_id=SessionId("q"))
    assert forgotten(opened(story, "p")) == []
    assert forgotten(opened(story, "o")) == ["p"]


def test_closing_forgets_everything_but_the_jobs() -> None:
    """A closed session has no budget and no affinity; its job ends as ever, and is not booked on it."""
    story = with_worker()
    opened(story, tokens_max=1)
    story.submit(session_id=S)
    assert forgotten(story.tell(SessionClosed(ME, S))) == ["s"]
    assert story.tell(SessionClosed(ME, S)) == []
    story.end()
    assert story.brain.session(ME, S) is None
    assert dispatched(story.submit("j2", session_id=S)) == [("j2", "w1")]


def test_a_session_that_nobody_opened_is_not_stored() -> None:
    """A job may name any session; nothing of it is kept."""
    story = with_worker()
    effects = story.submit(session_id=S) + story.end()
    assert not [e for e in effects if isinstance(e, Persist) and isinstance(e.record, SessionRecord)]


def test_sessions_survive_a_restart() -> None:
    """With what they used; those whose time passed meanwhile are forgotten at the first moment."""
    story = Story()
    record = SessionRecord(S, ME, SessionLimits(ttl_s=60.0, tokens_max=9), 0.0, 90.0, 2, 9, 1.0)
    stale = replace(record, session_id=SessionId("old"), used_at=10.0)
    story.tell(Restarted((), (), (), {}, sessions=(record, stale)))
    assert refusal(story.submit(session_id=S)).code == "QUOTA_EXCEEDED"
    assert forgotten(story.wait(0.0)) == ["old"]
