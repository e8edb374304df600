"""Placement and attempts: who gets a job, and what follows when an attempt fails."""

from __future__ import annotations

from dataclasses import replace

from brain_given import (
    BROKEN,
    SETTINGS,
    Story,
    a_job,
    beat,
    dispatched,
    finished,
    with_worker,
)

from llorch.base.ids import JobId, ModelId, PoolId, SessionId, WorkerId
from llorch.core import events as happened
from llorch.core.effects import (
    CancelAttempt,
    CancelCause,
    Decision,
    Persist,
)
from llorch.core.job import Failure, FailureKind, JobRecord, OnDisconnect, Result, Wishes
from llorch.core.policy import BuiltinPolicy, TaskView, jitter

J1 = JobId("j1")


def test_the_least_loaded_worker_wins_and_ties_go_to_the_smaller_id() -> None:
    """Load is the share of slots in use, ours and foreign; equal load: the id decides."""
    story = Story()
    story.worker("w2", slots_total=4)
    story.worker("w1", slots_total=4)
    assert dispatched(story.submit("j1")) == [("j1", "w1")]
    assert dispatched(story.submit("j2")) == [("j2", "w2")]
    story.tell(beat("w1", slots_busy=3))
    assert dispatched(story.submit("j3")) == [("j3", "w2")]


def test_slots_are_never_exceeded_and_foreign_work_counts() -> None:
    """A slot taken by somebody else, or by an attempt not yet over, is not free."""
    story = Story()
    story.worker(slots_total=2)
    story.tell(beat("w1", slots_busy=1))
    assert dispatched(story.submit("j1")) == [("j1", "w1")]
    assert dispatched(story.submit("j2")) == []
    assert dispatched(story.tell(beat("w1", slots_busy=1))) == [("j2", "w1")]
    story.cancel("j1")
    assert dispatched(story.submit("j3")) == []
    assert dispatched(story.end("j1")) == [("j3", "w1")]


def test_wishes_about_pools_and_sessions_are_kept() -> None:
    """Preferred pools first, avoided ones never, no fallback when it is off; a session returns to its worker."""
    story = Story()
    for number in (1, 2, 3):
        story.worker(f"w{number}", pool=PoolId(f"p{number}"), slots_total=4)
    prefer = Wishes(prefer_pools=("p3", "p2"))
    assert dispatched(story.submit("j1", wishes=prefer, session_id=SessionId("s"))) == [("j1", "w3")]
    assert dispatched(story.submit("j2", session_id=SessionId("s"))) == [("j2", "w3")]
    assert dispatched(story.submit("j3", wishes=Wishes(avoid_pools=("p1",)))) == [("j3", "w2")]
    strict = Wishes(prefer_pools=("p9",), allow_fallback=False)
    assert dispatched(story.submit("j4", wishes=strict)) == []
    story.tell(happened.PoolRegistered(PoolId("p1"), draining=True))
    assert dispatched(story.submit("j5")) == [("j5", "w2")]


def test_every_refusal_keeps_its_reason() -> None:
    """The decision on a waiting job names each worker and why not."""
    story = Story()
    story.worker("w1", protocol=9, protocol_ok=False)
    story.worker("w2")
    story.tell(happened.WorkerDrainRequested(WorkerId("w2")))
    story.worker("w3", model=ModelId("other"))
    story.worker("w4")
    story.submit("j1")
    effects = story.submit("j2")
    decisions = [e.record for e in effects if isinstance(e, Persist) and isinstance(e.record, Decision)]
    [decision] = [decision for decision in decisions if decision.kind == "waiting"]
    assert dict(decision.reasons) == {
        "w1": "speaks protocol 9",
        "w2": "draining",
        "w4": "no free slot (1 ours and 0 others on 1)",
    }


def test_errors_count_as_load() -> None:
    """A worker that failed comes last among equals, and is forgiven with time and success."""
    story = Story()
    story.worker("w1", slots_total=4)
    story.worker("w2", slots_total=4)
    story.submit("j1")
    story.fail("j1", 1, Failure(FailureKind.FAILED, "INFERENCE_FAILED"))
    assert dispatched(story.submit("j2")) == [("j2", "w2")]
    assert dispatched(story.submit("j3")) == [("j3", "w2")]


def test_a_retry_avoids_the_worker_that_failed_while_another_could() -> None:
    """Busy or not: as long as another ready worker fits, the failing one is not used for this job again."""
    story = Story()
    story.worker("w1")
    story.worker("w2")
    story.submit("j1")
    story.submit("j2")
    story.fail("j1", 1, Failure(FailureKind.FAILED, "INFERENCE_FAILED"))
    assert dispatched(story.wait(1.0)) == []
    assert dispatched(story.end("j2")) == [("j1", "w2")]
    story.tell(happened.WorkerForgetRequested(WorkerId("w1")))
    story.fail("j1", 2, Failure(FailureKind.STALLED))
    assert dispatched(story.wait(1.0)) == [("j1", "w2")]


def test_back_off_grows_is_bounded_and_replays() -> None:
    """Exponential with a jitter that is a hash: the same job and count always wait the same."""
    policy = BuiltinPolicy(SETTINGS)
    task = TaskView.of(a_job())
    stalled = Failure(FailureKind.STALLED)
    delays = [policy.retry(task, stalled, n) for n in range(1, SETTINGS.attempts_max)]
    assert delays == [policy.retry(task, stalled, n) for n in range(1, SETTINGS.attempts_max)]
    for n, delay in enumerate(delays, 1):
        ceiling = min(SETTINGS.backoff_max_s, SETTINGS.backoff_first_s * 2 ** (n - 1))
        assert delay is not None and ceiling / 2 <= delay <= ceiling
    assert policy.retry(task, stalled, SETTINGS.attempts_max) is None
    assert policy.retry(task, BROKEN, 1) == 0.0
    assert jitter(J1, 1) != jitter(J1, 2)


def test_a_rejection_is_final_with_the_workers_code() -> None:
    """A 4xx would be the same anywhere."""
    story = with_worker()
    story.submit()
    effects = story.fail(failure=Failure(FailureKind.REJECTED, "INVALID_REQUEST", "bad stop"))
    assert finished(effects) == [("j1", "failed", "INVALID_REQUEST")]


def test_a_continued_job_goes_first_and_stays_with_its_model() -> None:
    """After the first token the job is continued before anybody waiting, on the model that made its tokens."""
    story = Story()
    story.worker("w1")
    story.submit("j1", model=None)
    story.submit("j2")
    story.first("j1")
    story.fail("j1", frames=4)
    assert dispatched(story.worker("w3", model=ModelId("other"))) == []
    assert dispatched(story.worker("w2")) == [("j1", "w2")]


def test_the_last_error_carries_the_partial_count() -> None:
    """No worker can go on: WORKER_LOST, with the tokens that were sent."""
    story = with_worker()
    story.submit()
    story.first()
    story.fail(frames=4)
    effects = story.wait(60.0)
    assert finished(effects) == [("j1", "failed", "WORKER_LOST")]
    [ending] = [e.record.ending for e in effects if isinstance(e, Persist) and isinstance(e.record, JobRecord)]
    assert ending is not None and ending.result == Result("ERROR", 4, seed=1)


def test_a_cancel_at_the_worker_itself_ends_the_job_cancelled() -> None:
    """Somebody cancelled past us: the worker's end says so."""
    story = with_worker()
    story.submit()
    assert finished(story.end(reason="CANCELLED")) == [("j1", "cancelled", None)]


def test_the_total_limit_stops_the_attempt_and_ends_the_job() -> None:
    """Timeout and deadline count from acceptance; the slot is free when the worker says so, or soon after."""
    story = with_worker()
    story.submit(timeout_s=9.0, deadline_s=3.0)
    effects = story.wait(3.0)
    assert finished(effects) == [("j1", "failed", "TIMEOUT")]
    assert [e.cause for e in effects if isinstance(e, CancelAttempt)] == [CancelCause.TIMEOUT]
    story.tell(beat("w1", slots_busy=1))
    assert dispatched(story.submit("j2")) == []
    story.tell(beat("w1", slots_busy=1))
    assert dispatched(story.end("j1")) == [("j2", "w1")]


def test_disconnect_with_grace_waits_for_the_client() -> None:
    """Within the grace time a client may come back; after it the job is cancelled."""
    story = Story(replace(SETTINGS, disconnect_grace_s=2.0))
    gone = {"attached": True, "on_disconnect": OnDisconnect.CANCEL}
    story.submit("j1", **gone)
    story.submit("j2", **gone)
    story.tell(happened.ClientDisconnected(J1))
    story.tell(happened.ClientDisconnected(JobId("j2")))
    story.wait(1.0)
    story.tell(happened.ClientAttached(J1))
    assert finished(story.wait(2.0)) == [("j2", "cancelled", None)]
