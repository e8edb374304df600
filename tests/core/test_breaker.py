"""Workers that fail in a row rest and are probed; retries are budgeted; deadlines that cannot be kept are refused."""

from __future__ import annotations

from dataclasses import replace

from brain_given import SETTINGS, Story, accepted, beat, dispatched, refusal, with_worker

from llorch.base.ids import JobId
from llorch.core.effects import Decision as Note
from llorch.core.effects import Effect, Persist
from llorch.core.events import AttemptEnded
from llorch.core.job import Failure, FailureKind, Result
from llorch.core.learned import RetryBudget

STALLED = Failure(FailureKind.STALLED)
ONE_TRY = replace(SETTINGS, attempts_max=1, retry_floor=1000)


def failing(failures: int, settings: object = ONE_TRY) -> Story:
    """A story in which that many different jobs failed on w1, one after the other."""
    story = Story(settings)  # type: ignore[arg-type]
    story.worker(slots_total=2)
    for number in range(failures):
        story.submit(f"f{number}")
        story.now += 0.1
        story.fail(f"f{number}", failure=STALLED)
    return story


def test_a_worker_that_fails_in_a_row_rests_and_says_so() -> None:
    """After three different jobs it gets none for five seconds, then one at a time until one succeeds."""
    assert dispatched(failing(2).submit()) == [("j1", "w1")]
    story = failing(3)
    effects = story.submit()
    assert dispatched(effects) == []
    [note] = [e.record for e in effects if isinstance(e, Persist) and isinstance(e.record, Note) and e.record.reasons]
    assert note.reasons == (("w1", "failed too often in a row, may be tried again in 5.0 s"),)
    story.submit("j2")
    for _ in range(4):
        assert dispatched(story.tell(beat("w1")) + story.wait(1.0)) == []
    assert dispatched(story.tell(beat("w1")) + story.wait(1.1)) == [("j1", "w1")]
    story.submit("j3")
    assert dispatched(story.end("j1")) == [("j2", "w1"), ("j3", "w1")]


def test_a_failed_probe_doubles_the_rest_up_to_its_bound() -> None:
    """5, 10, 20, 40, 60, 60 seconds."""
    story = failing(3, replace(ONE_TRY, lease_s=1e6))
    rests = []
    for number in range(6):
        began = story.now
        story.submit(f"p{number}")
        while not dispatched(story.wait(0.5)):
            pass
        rests.append(round(story.now - began))
        story.fail(f"p{number}", failure=STALLED)
    assert rests == [5, 10, 20, 40, 60, 60]


def test_one_job_failing_again_and_again_is_not_the_workers_fault() -> None:
    """Three failures of the same job leave the worker open for others, as does a success in between."""
    story = Story(replace(SETTINGS, attempts_max=4, retry_floor=1000))
    story.worker()
    story.submit()
    for attempt in (1, 2, 3):
        story.now += 0.1
        story.fail(attempt=attempt, failure=STALLED)
        story.tell(beat("w1"))
        story.wait(0.5)
    story.cancel()
    assert dispatched(story.wait(6.0) + story.worker() + story.submit("j2")) == [("j2", "w1")]
    story = failing(2)
    story.submit("ok")
    story.end("ok")
    story.submit("f9")
    story.fail("f9", failure=STALLED)
    assert dispatched(story.submit()) == [("j1", "w1")]


def test_a_crash_of_many_attempts_at_once_is_one_failure() -> None:
    """A worker that breaks off four streams in one moment may be used as soon as it is back."""
    story = Story(ONE_TRY)
    story.worker(slots_total=4)
    for number in range(4):
        story.submit(f"x{number}")
    story.now += 1.0
    for number in range(4):
        story.fail(f"x{number}")
    story.worker(slots_total=4)
    assert dispatched(story.submit("j1") + story.submit("j2")) == [("j1", "w1"), ("j2", "w1")]


def delay_of(effects: list[Effect]) -> str:
    [note] = [e.record.note for e in effects if isinstance(e, Persist) and isinstance(e.record, Note)][:1]
    return note.rpartition("again in ")[2]


def test_retries_beyond_the_budget_wait_the_longest_back_off() -> None:
    """With a floor of one retry the second in a row is delayed, not failed; a continuation and a bounce never are."""
    story = Story(replace(SETTINGS, retry_floor=1, retry_share=0.0, breaker_failures=100))
    story.worker(slots_total=4)
    for number in range(1, 5):
        story.submit(f"j{number}")
    assert delay_of(story.fail("j1", failure=STALLED)) != "5.000 s"
    assert delay_of(story.fail("j2", failure=STALLED)) == "5.000 s"
    story.first("j3")
    assert delay_of(story.fail("j3", failure=STALLED, frames=1)) != "5.000 s"
    assert delay_of(story.fail("j4", failure=Failure(FailureKind.BUSY))) == "0.000 s"


def test_the_budget_grows_with_accepted_jobs_and_forgets() -> None:
    """A fifth of the last ten seconds' jobs and ten more; what is older does not count."""
    budget = RetryBudget(share=0.2, floor=10, window_s=10.0)
    for _ in range(50):
        budget.accepted(0.5)
    assert [budget.spend(1.0) for _ in range(21)] == [True] * 20 + [False]
    assert [budget.spend(10.6) for _ in range(2)] == [False, False], "the jobs are forgotten, the retries are not yet"
    assert [budget.spend(11.1) for _ in range(11)] == [True] * 10 + [False]


def learned() -> Story:
    """A story in which five jobs took one second to the first token and two for twenty tokens."""
    story = Story(replace(SETTINGS, lease_s=1e6))
    story.worker()
    for number in range(5):
        name = JobId(f"l{number}")
        story.submit(name)
        story.now += 1.0
        story.first(name)
        story.now += 2.0
        story.tell(AttemptEnded(name, 1, Result("EOS", 20, decode_time_ms=2000)))
    return story


def test_a_deadline_that_cannot_be_kept_is_refused() -> None:
    """First token, tokens and the wait as learned have to fit; half the tokens need half the time for them."""
    story = learned()
    refused = refusal(story.submit(deadline_s=2.9))
    assert (refused.code, "about 3.0 s" in refused.message) == ("DEADLINE_UNMET", True)
    assert dispatched(story.submit("j2", deadline_s=2.9, max_tokens=10)) == [("j2", "w1")]
    assert refusal(story.submit("j3", deadline_s=4.0)).code == "DEADLINE_UNMET"
    eta_s = accepted(story.submit("j4", deadline_s=60.0)).eta_s
    assert eta_s is not None and eta_s > 1.0


def test_nothing_is_refused_on_a_guess() -> None:
    """With fewer than five jobs to learn from every deadline is believed."""
    story = with_worker()
    assert dispatched(story.submit(deadline_s=0.001)) == [("j1", "w1")]
