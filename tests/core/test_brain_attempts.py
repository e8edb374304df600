"""Placement and attempts: who gets a job, and what follows when an attempt fails."""

from __future__ import annotations

from dataclasses import replace

from brain_given import (
    BROKEN,
    SETTINGS,
    Story,
    a_job,
    a_worker,
    beat,
    dispatched,
    ending_of,
    finished,
    with_worker,
)

from llorch.base.ids import JobId, ModelId, PoolId, SessionId, WorkerId
from llorch.core import events as happened
from llorch.core.effects import (
    CancelAttempt,
    CancelCause,
    Decision,
    Effect,
    Persist,
)
from llorch.core.job import Failure, FailureKind, JobRecord, JobState, OnDisconnect, Result, Wishes
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


def test_the_times_of_a_continued_job_cover_all_attempts() -> None:
    """The last worker timed its own part only; the ending says what the client saw."""
    story = Story()
    story.worker("w1")
    story.worker("w2")
    story.submit()
    story.now += 0.5
    story.first()
    story.now += 1.0
    story.fail(frames=3)
    story.now += 1.0
    story.tell(happened.TimePassed())
    story.now += 2.0
    result = ending_of(story.end(attempt=2)).result
    assert result is not None
    assert (result.ttft_ms, result.decode_time_ms) == (500, 4000)


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
    assert [(e.cause, e.limit_s) for e in effects if isinstance(e, CancelAttempt)] == [(CancelCause.TIMEOUT, 5.0)]
    assert finished(effects) == []
    assert story.cancel() == []
    assert finished(story.stopped(tokens=7)) == [("j1", "failed", "TIMEOUT")]
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


def test_a_lost_attempt_counts_its_tokens() -> None:
    """A lease ends: what the shell says of the stopped attempt, at once or late, is in the last error."""
    story = with_worker()
    story.submit()
    story.first()
    effects = story.wait(6.0)
    assert [e.cause for e in effects if isinstance(e, CancelAttempt)] == [CancelCause.LOST]
    story.stopped(tokens=6)
    assert ending_of(story.wait(60.0)).result == Result("ERROR", 6, seed=1)


def test_a_cancel_that_nobody_confirms_counts_its_tokens() -> None:
    """The limit of a cancel passes: the job ends cancelled, with the tokens that its client has."""
    story = with_worker()
    story.submit()
    story.first()
    story.cancel()
    story.stopped(tokens=5)
    assert ending_of(story.wait(5.0)).result == Result("CANCELLED", 5, seed=1)


def test_the_total_limit_waits_for_nobody_for_ever() -> None:
    """Whatever becomes of the stopped attempt, the job ends with TIMEOUT."""
    for after in ("stopped", "end", "fail", "lost", "silence"):
        story = with_worker()
        story.submit(timeout_s=3.0)
        effects = story.wait(3.0)
        match after:
            case "end":
                effects += story.end()
            case "fail":
                effects += story.fail(frames=2)
            case "lost":
                effects += story.tell(happened.WorkerForgetRequested(WorkerId("w1")))
            case "stopped":
                effects += story.stopped(tokens=1)
        effects += story.wait(10.0)
        assert finished(effects) == [("j1", "failed", "TIMEOUT")], after


def test_tokens_are_counted_over_a_restart() -> None:
    """What the segments hold counts, though no attempt follows."""
    story = Story()
    record = JobRecord(a_job(), JobState.RUNNING, story.now, 1, attempts=1, model=a_worker().model)
    story.tell(happened.Restarted((record,), (), (), {J1: happened.Relayed(4, 9)}))
    assert ending_of(story.wait(100.0)).result == Result("ERROR", 9, seed=1)


def test_a_job_that_is_always_sent_away_gives_up() -> None:
    """503 for ever: the queue timeout counts all the time, rows do not grow without end, the worker is asked rarely."""
    story = Story(replace(SETTINGS, queue_timeout_interactive_s=60.0))
    story.worker()
    effects = story.submit()
    told: list[Effect] = []
    rounds = 0
    while rounds < 1000 and not finished(effects):
        told += effects
        if dispatched(effects):
            rounds += 1
            effects = story.fail(attempt=rounds, failure=Failure(FailureKind.BUSY, retry_after_s=0.0))
        else:
            story.now += 0.1
            effects = story.tell(beat("w1")) + story.tell(happened.TimePassed())
    assert finished(effects) == [("j1", "failed", "QUEUE_TIMEOUT")]
    assert 5 < rounds < 40
    assert len([e for e in told if isinstance(e, Persist) and isinstance(e.record, Decision)]) <= 6


def test_a_bounced_job_says_where_it_went_at_last() -> None:
    """Rounds that were not explained are summed up when a worker takes the job."""
    story = with_worker()
    story.submit()
    for attempt in range(1, 6):
        story.fail(attempt=attempt, failure=Failure(FailureKind.BUSY, retry_after_s=0.0))
        story.wait(2.0)
        story.tell(beat("w1"))
    effects = story.tell(happened.AttemptStarted(J1, 6))
    [line] = [e.record for e in effects if isinstance(e, Persist) and isinstance(e.record, Decision)]
    assert (line.kind, line.chosen, line.note) == ("placed", "w1", "attempt 6, after 5 busy answers in a row")


def test_a_client_that_was_told_its_model_keeps_it() -> None:
    """`started` names the model: a retry goes to no other, though no token came and the job asked for none."""
    story = Story()
    story.worker("w1")
    story.submit(model=None)
    story.tell(happened.AttemptStarted(J1, 1))
    story.worker("w2", model=ModelId("other"))
    assert dispatched(story.fail()) == []
    assert dispatched(story.worker("w3")) == [("j1", "w3")]
