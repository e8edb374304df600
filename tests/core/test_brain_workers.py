"""Workers and restarts: leases, drains, and what a new process picks up."""

from __future__ import annotations

from dataclasses import replace

from brain_given import (
    DEMO,
    SETTINGS,
    Story,
    a_job,
    beat,
    dispatched,
    finished,
    kinds,
    with_worker,
)

from llorch.base.ids import DEFAULT_TENANT, JobId, PoolId, WorkerId
from llorch.core import events as happened
from llorch.core.brain import Counts, QueuePlace
from llorch.core.effects import (
    DrainWorker,
    Duplicate,
    Effect,
    Persist,
    PoolRecord,
    RefuseWorker,
)
from llorch.core.job import Failure, FailureKind, JobRecord, JobState, Priority, Wishes
from llorch.core.worker import WorkerState

J1 = JobId("j1")


def test_a_live_id_at_another_address_is_refused() -> None:
    """Two processes cannot share an id; the answer says so and changes nothing."""
    story = with_worker()
    before = story.look()
    effects = story.worker(url="http://elsewhere")
    assert [type(effect) for effect in effects] == [RefuseWorker]
    assert story.look() == before


def test_a_stranger_s_heartbeat_changes_nothing() -> None:
    """An unknown worker is told by the shell to announce itself; the brain stays as it was."""
    story = Story()
    assert story.tell(beat("w9")) == []
    assert story.brain.worker(WorkerId("w9")) is None


def test_a_silent_worker_is_lost_within_its_lease_and_forgotten_later() -> None:
    """Lost after `lease_s`; out of the list after `lost_worker_kept_s`."""
    story = with_worker()
    story.wait(4.9)
    assert story.brain.workers()[0].state is WorkerState.READY
    story.wait(0.1)
    assert story.brain.workers()[0].state is WorkerState.LOST
    assert kinds(story.wait(601.0)) == ["WorkerForgotten"]
    assert story.brain.workers() == []


def test_a_drained_worker_gets_nothing_and_finishes_what_it_has() -> None:
    """Drain tells the worker, once; its attempt goes on."""
    story = with_worker()
    story.submit()
    effects = story.tell(happened.WorkerDrainRequested(WorkerId("w1")))
    assert DrainWorker(WorkerId("w1"), "http://w1") in effects
    assert story.tell(happened.WorkerDrainRequested(WorkerId("w1"))) == []
    story.submit("j2")
    assert dispatched(story.end("j1")) == []
    assert finished(story.wait(601.0)) == [("j2", "failed", "QUEUE_TIMEOUT")]


def test_a_late_heartbeat_of_a_drained_worker_does_not_hold() -> None:
    """Found by seed 8298: a new process announced itself, then a delayed word of the old one said draining."""
    story = with_worker()
    story.tell(beat("w1", draining=True))
    assert dispatched(story.submit()) == []
    assert dispatched(story.tell(beat("w1"))) == [("j1", "w1")]


def test_a_drain_that_was_asked_for_holds_until_the_worker_comes_anew() -> None:
    """A heartbeat sent before the worker heard of its drain does not undo it."""
    story = with_worker()
    story.tell(happened.WorkerDrainRequested(WorkerId("w1")))
    story.tell(beat("w1"))
    assert dispatched(story.submit()) == []
    assert dispatched(story.worker()) == [("j1", "w1")]


def test_a_drain_carries_the_correlation_id_of_who_asked() -> None:
    """What the worker's log says of a drain can be matched with the operator's request."""
    effects = with_worker().tell(happened.WorkerDrainRequested(WorkerId("w1"), "abc"))
    assert DrainWorker(WorkerId("w1"), "http://w1", "abc") in effects


def test_only_an_operator_registers_a_pool() -> None:
    """A host with a live worker is a pool, but not a registered one."""
    story = with_worker()
    assert story.brain.registered_pools() == frozenset()
    story.tell(happened.PoolRegistered(PoolId("p1")))
    assert story.brain.registered_pools() == {"p1"}
    assert [pool.pool_id for pool in story.brain.pools()] == ["local", "p1"]


def test_the_pin_of_a_job_that_backed_off_is_looked_after() -> None:
    """A pinned batch job whose worker failed it and is then forgotten ends with the pin's error."""
    story = with_worker()
    story.submit(wishes=Wishes(pin_worker="w1"), priority=Priority.BATCH)
    for _ in range(3):
        story.wait(3.0)
        story.tell(beat("w1"))
    story.fail("j1", 1, Failure(FailureKind.STALLED))
    story.tell(happened.WorkerForgetRequested(WorkerId("w1")))
    assert finished(story.wait(60.0)) == [("j1", "failed", "WORKER_UNAVAILABLE")]


def test_counts_and_pools_are_what_health_shows() -> None:
    """Pools are registered hosts plus hosts of live workers."""
    story = Story()
    story.tell(happened.PoolRegistered(PoolId("p1")))
    story.worker("w1", pool=PoolId("p2"))
    story.submit("j1")
    story.submit("j2")
    assert story.brain.counts() == Counts(queue_depth=1, running=1, workers=1, pools=2)
    assert story.brain.pools() == [PoolRecord(PoolId("p1"), False), PoolRecord(PoolId("p2"), False)]
    story.wait(5.0)
    assert story.brain.counts().pools == 1
    assert kinds(story.tell(happened.PoolForgotten(PoolId("p1")))) == ["PoolDropped"]


def test_nobody_is_given_up_right_after_a_restart() -> None:
    """Workers need time to announce themselves: limits for want of a worker are stretched."""
    record = JobRecord(a_job(), JobState.RUNNING, 10.0, 3, attempts=1, model=DEMO, queued_since=10.0)
    waiting = JobRecord(a_job("j2"), JobState.QUEUED, 5.0, 2, queued_since=5.0)
    story = Story()
    story.now = 5000.0
    story.tell(happened.Restarted((record, waiting), (), (), {J1: happened.Relayed(2, 2)}))
    assert finished(story.wait(59.0)) == []
    assert sorted(finished(story.wait(2.0))) == [
        ("j1", "failed", "WORKER_LOST"),
        ("j2", "failed", "QUEUE_TIMEOUT"),
    ]


def test_keys_of_ended_jobs_outlive_a_restart() -> None:
    """A repeated idempotency key means the same job after a restart, whether that job lives or has ended."""
    stored = JobRecord(a_job("j1", idempotency_key="live"), JobState.QUEUED, 100.0, 41, queued_since=100.0)
    keys = ((DEFAULT_TENANT, "ended", JobId("j0")), (DEFAULT_TENANT, "live", J1))
    story = Story()
    story.tell(happened.Restarted((stored,), (), (), {}, keys))
    assert Duplicate(JobId("j2"), JobId("j0")) in story.submit("j2", idempotency_key="ended")
    assert Duplicate(JobId("j3"), J1) in story.submit("j3", idempotency_key="live")
    assert kinds(story.submit("j4", idempotency_key="new"))[-1] == "Accept"


def test_arrivals_after_a_restart_keep_their_order() -> None:
    """The sequence goes on where the stored one ended."""
    stored = JobRecord(a_job("j1"), JobState.QUEUED, 100.0, 41, queued_since=100.0)
    story = Story()
    story.tell(happened.Restarted((stored,), (), (), {}))
    effects = story.submit("j2")
    [record] = [e.record for e in effects if isinstance(e, Persist) and isinstance(e.record, JobRecord)]
    assert record.sequence == 42
    assert story.brain.position(JobId("j2")) == QueuePlace(1, None)


def test_a_thousand_retries_leave_nothing_behind() -> None:
    """After every job ended the brain holds no job, no seat and no bell but the worker's lease."""
    story = Story(replace(SETTINGS, attempts_max=2, retry_floor=1000))
    story.worker(slots_total=3)
    effects: list[Effect] = []
    for number in range(200):
        name = f"x{number}"
        effects += story.submit(name)
        effects += story.fail(name, 1, Failure(FailureKind.STALLED))
        story.tell(beat("w1"))
        effects += story.wait(0.2)
        effects += story.end(name, 2)
    assert len(finished(effects)) == 200
    story.wait(4.0)
    story.tell(beat("w1"))
    assert story.brain.counts() == Counts(0, 0, 1, 1)
    assert story.brain.workers()[0].slots_used == 0
