"""Prefix affinity: who holds the beginning of a prompt gets the job, within bounds and after everything stronger."""

from __future__ import annotations

from typing import Any

import pytest
from brain_given import Story, a_job, a_worker, dispatched
from hypothesis import given
from hypothesis import strategies as st

from llorch.base.ids import ModelId, PoolId, SessionId, WorkerId
from llorch.core import events as happened
from llorch.core.brain import Brain
from llorch.core.effects import Decision, Effect, Persist
from llorch.core.job import JobRecord, JobState, Wishes
from llorch.core.placement import CANDIDATES_MAX
from llorch.core.policy import BuiltinPolicy, Candidate, TaskView
from llorch.core.prefixes import CROWD, PrefixIndex
from llorch.core.settings import BrainSettings
from llorch.core.worker import Load

PARTS = ("a", "b", "c")


def holds(name: str, *digests: str, busy: int = 0) -> happened.HeartbeatReceived:
    """A heartbeat that names these beginnings."""
    return happened.HeartbeatReceived(WorkerId(name), Load(busy), frozenset(digests))


def crowd(count: int, slots: int = 4) -> Story:
    """A story with many workers; w0000 has the smallest id and wins every tie."""
    story = Story()
    for n in range(count):
        story.worker(f"w{n:04}", slots_total=slots)
    return story


def placed(effects: list[Effect]) -> str:
    """The note of the one placement."""
    [note] = [
        effect.record.note
        for effect in effects
        if isinstance(effect, Persist) and isinstance(effect.record, Decision) and effect.record.kind == "placed"
    ]
    return note


def test_the_holder_is_found_among_a_thousand_that_are_less_loaded() -> None:
    """It is looked at although it is the most loaded open worker."""
    story = crowd(1000)
    story.tell(holds("w0777", "a", "b", busy=3))
    effects = story.submit(prefixes=PARTS)
    assert dispatched(effects) == [("j1", "w0777")]
    assert placed(effects) == "attempt 1, holds 2 of 3 prefix parts"
    assert dispatched(story.submit("j2", prefixes=PARTS)) == [("j2", "w0000")]


def test_the_longest_wins_and_then_the_least_loaded() -> None:
    """Two parts before one; among equals the load decides, as ever."""
    story = crowd(20)
    story.tell(holds("w0003", "a"))
    story.tell(holds("w0011", "a", "b", busy=2))
    story.tell(holds("w0017", "a", "b", busy=1))
    assert dispatched(story.submit(prefixes=PARTS)) == [("j1", "w0017")]
    # A beginning is held whole, also when the worker names only its end.
    story.tell(holds("w0005", "c", busy=3))
    assert dispatched(story.submit("j2", prefixes=PARTS)) == [("j2", "w0005")]


def test_what_everybody_holds_goes_by_load() -> None:
    """The digest of a system prompt that all share must not make the first few workers do everything."""
    story = crowd(CROWD * 2)
    for n in range(CROWD * 2):
        story.tell(holds(f"w{n:04}", "a", busy=3 if n < CROWD else 1))
    first = CROWD
    assert dispatched(story.submit(prefixes=PARTS)) == [("j1", f"w{first:04}")]


def test_as_many_holders_as_are_looked_at_are_ranked_by_load() -> None:
    """Not by the order in which they came to hold it."""
    story = crowd(CROWD)
    for n in range(CROWD):
        story.tell(holds(f"w{n:04}", "a", busy=1 if n == CROWD - 1 else 2))
    assert dispatched(story.submit(prefixes=PARTS)) == [("j1", f"w{CROWD - 1:04}")]


def test_full_holders_leave_the_job_to_the_next_best() -> None:
    """Affinity makes nobody wait: shorter beginnings, then any free worker."""
    story = crowd(3, slots=1)
    story.tell(holds("w0001", "a", "b"))
    story.tell(holds("w0002", "a"))
    sent = [dispatched(story.submit(f"j{n}", prefixes=PARTS))[0][1] for n in (1, 2, 3)]
    assert sent == ["w0001", "w0002", "w0000"]


@pytest.mark.parametrize(
    ("wishes", "session", "chosen"),
    [
        (Wishes(prefer_pools=("near",)), None, "w0001"),
        (Wishes(avoid_pools=("local",)), None, "w0001"),
        (Wishes(pin_worker="w0000"), None, "w0000"),
        (Wishes(), SessionId("s"), "w0000"),
        (Wishes(), None, "w0002"),
    ],
)
def test_wishes_and_sessions_are_stronger(wishes: Wishes, session: SessionId | None, chosen: str) -> None:
    """Pins, pools and the session's worker come before what a cache holds."""
    story = Story()
    story.worker("w0000", slots_total=4)
    story.submit("j1", session_id=SessionId("s"))
    story.worker("w0001", slots_total=4, pool=PoolId("near"))
    story.worker("w0002", slots_total=4)
    story.tell(holds("w0002", "a"))
    assert dispatched(story.submit("j2", prefixes=PARTS, wishes=wishes, session_id=session)) == [("j2", chosen)]


def test_a_holder_of_another_model_is_no_holder() -> None:
    """Digests do not depend on the model, caches do."""
    story = crowd(2)
    story.worker("x", model=ModelId("other"), slots_total=4)
    story.tell(holds("x", "a", "b"))
    assert dispatched(story.submit(prefixes=PARTS)) == [("j1", "w0000")]
    assert dispatched(story.submit("j2", prefixes=PARTS, model=None)) == [("j2", "x")]


def test_who_failed_the_job_is_not_chosen_for_its_cache() -> None:
    """The retry goes elsewhere while there is somebody else."""
    story = crowd(2)
    story.tell(holds("w0001", "a"))
    story.submit(prefixes=PARTS)
    assert dispatched(story.fail()) == [("j1", "w0000")]


@pytest.mark.parametrize(
    "event",
    [
        happened.WorkerAnnounced(a_worker("w0001", slots_total=4)),
        happened.WorkerForgetRequested(WorkerId("w0001")),
        happened.WorkerAnnounced(a_worker("w9", url="http://w0001")),
        holds("w0001"),
        holds("w0001", "x"),
    ],
)
def test_what_is_not_held_any_more_draws_nobody(event: Any) -> None:
    """A worker that starts anew, goes, or names other beginnings."""
    story = crowd(2)
    story.tell(holds("w0001", "a"))
    story.tell(event)
    effects = story.submit(prefixes=PARTS)
    assert dispatched(effects) == [("j1", "w0000")] and placed(effects) == "attempt 1"


def test_a_restarted_brain_places_by_the_digests_it_is_given() -> None:
    """The shell computes them anew; the workers name theirs with their heartbeats."""
    record = JobRecord(a_job(prefixes=PARTS), JobState.QUEUED, accepted_at=100.0, sequence=1)
    story = Story()
    pool = happened.PoolRegistered(PoolId("local"), draining=True)
    story.tell(happened.Restarted((record,), (), (pool,), {}))
    story.worker("w0000")
    story.worker("w0001")
    story.tell(holds("w0001", "a"))
    effects = story.tell(happened.PoolRegistered(PoolId("local")))
    assert dispatched(effects) == [("j1", "w0001")] and placed(effects).endswith("holds 1 of 3 prefix parts")


class Watching(BuiltinPolicy):
    """Remembers what it was offered."""

    def __init__(self) -> None:
        super().__init__(BrainSettings())
        self.offered: list[Candidate] = []

    def choose_worker(self, task: TaskView, candidates: list[Candidate]) -> WorkerId:
        self.offered = candidates
        return super().choose_worker(task, candidates)


def test_a_policy_sees_how_much_each_candidate_holds() -> None:
    """Best first, and no more of them than before."""
    policy = Watching()
    story = Story(brain=Brain(policy=policy))
    for n in range(30):
        story.worker(f"w{n:04}", slots_total=4)
    story.tell(holds("w0020", "a", "b"))
    story.tell(holds("w0025", "a"))
    story.submit(prefixes=PARTS)
    assert [(c.worker_id, c.prefix_parts) for c in policy.offered[:3]] == [("w0020", 2), ("w0025", 1), ("w0000", 0)]
    assert len(policy.offered) == CANDIDATES_MAX


REPORTS = st.lists(st.tuples(st.sampled_from("uvw"), st.frozensets(st.sampled_from("abcd"))), max_size=20)


@given(REPORTS, st.permutations("abcd"))
def test_the_index_equals_asking_everybody(reports: list[tuple[str, frozenset[str]]], digests: list[str]) -> None:
    """Whatever was reported in whatever order; and what nobody holds leaves nothing behind."""
    index, last = PrefixIndex(), dict[str, frozenset[str]]()
    for name, held in reports:
        index.report(WorkerId(name), held)
        last[name] = held
    found = index.held(digests)
    for name in "uvw":
        longest = max((n for n, digest in enumerate(digests, 1) if digest in last.get(name, ())), default=0)
        assert found.parts_on(WorkerId(name)) == longest
    assert [parts for parts, _ in found.levels] == sorted({parts for parts, _ in found.levels}, reverse=True)
    for name in "uvw":
        index.report(WorkerId(name), frozenset())
    assert index.held(digests).levels == () and not index._holders and not index._reported
