"""A policy script that declines, and a worker that refuses, must not undo the bounds of the queue."""

from __future__ import annotations

from typing import Any

from brain_given import Story, dispatched, refusal

from llorch.base.ids import PoolId, TenantId
from llorch.core.brain import BrainSettings
from llorch.core.demand_settings import DemandRead
from llorch.core.effects import Accept, Ask, Effect
from llorch.core.events import PolicyAnswered, PolicyLoaded, TenantsRead
from llorch.core.job import Failure, FailureKind, Wishes
from llorch.core.policy import Hook
from llorch.core.tenant import TenantLimits

ALICE = TenantId("alice")
SLOTS = 2


def scripted(*hooks: Hook, capacity: int = 3) -> Story:
    """A worker with two slots and a script with these hooks."""
    story = Story(BrainSettings(queue_capacity=capacity))
    story.worker(slots_total=SLOTS)
    story.tell(PolicyLoaded(frozenset(hooks), "x.star"))
    return story


def asked(effects: list[Effect]) -> list[Ask]:
    return [effect for effect in effects if isinstance(effect, Ask)]


def declining(story: Story, jobs: int, **changes: Any) -> list[Effect]:
    """So many submissions, with every worker declined for every one; all effects."""
    told: list[Effect] = []
    for number in range(jobs):
        effects = story.submit(f"j{number}", **changes)
        for ask in asked(effects):
            effects += story.tell(PolicyAnswered(ask.ask_id, None))
        told += effects
    return told


def test_a_script_that_declines_every_worker_does_not_unbound_the_queue() -> None:
    """Idle workers let no more in past a full queue than one a slot when the script leaves them idle."""
    story = scripted(Hook.CHOOSE_WORKER)
    told = declining(story, 50)
    accepted = [effect for effect in told if isinstance(effect, Accept)]
    assert 3 <= len(accepted) <= 3 + SLOTS
    assert refusal(story.submit("late")).code == "QUEUE_FULL"


def test_a_script_that_declines_every_worker_does_not_unbound_a_tenant() -> None:
    """`queued_max` holds, but for one job a slot, although a worker is idle; others still come in."""
    story = scripted(Hook.CHOOSE_WORKER, capacity=100)
    story.tell(TenantsRead({ALICE: TenantLimits(queued_max=3)}))
    told = declining(story, 50, tenant=ALICE)
    accepted = [effect for effect in told if isinstance(effect, Accept)]
    assert 3 <= len(accepted) <= 3 + SLOTS
    assert refusal(story.submit("late", tenant=ALICE)).code == "QUOTA_EXCEEDED"
    assert any(isinstance(effect, Accept) for effect in story.submit("bobs", tenant=TenantId("bob")))


def test_a_full_queue_still_takes_what_an_idle_worker_may_start() -> None:
    """Jobs about which the script is being asked do not fill the queue: with no room at all each slot takes one."""
    story = scripted(Hook.CHOOSE_WORKER, capacity=0)
    for number in range(SLOTS):
        [ask] = asked(effects := story.submit(f"j{number}"))
        assert any(isinstance(effect, Accept) for effect in effects)
        assert ask.hook is Hook.CHOOSE_WORKER
    assert refusal(story.submit("late")).code == "QUEUE_FULL"


def test_on_queue_full_is_told_of_a_queue_without_the_job_it_is_asked_about() -> None:
    """`queue.depth` is what waits already: at most the capacity."""
    story = scripted(Hook.ON_QUEUE_FULL, capacity=1)
    for number in range(SLOTS + 1):
        story.submit(f"j{number}")
    [ask] = asked(story.submit("one-more"))
    assert ask.arguments["queue"] == {"depth": 1, "capacity": 1, "oldest_batch": None}


def test_who_waits_behind_a_worker_that_refuses_everybody_is_taken_by_a_second_choice() -> None:
    """A ready worker that answered busy twice in a row, to whomever, keeps nobody from those that may be too small."""
    story = Story()
    story.worker("large", context_length=4096)
    assert dispatched(story.submit("stays", wishes=Wishes(pin_worker="large"))) == [("stays", "large")]
    story.worker("small", context_length=64)
    assert dispatched(story.submit("long", prompt_bytes=200)) == []
    busy = Failure(FailureKind.BUSY, "WORKER_UNAVAILABLE", "no", 1.0)
    assert dispatched(story.fail("stays", failure=busy)) == []
    assert dispatched(story.wait(1.0)) == [("stays", "large")]
    assert dispatched(story.fail("stays", attempt=2, failure=busy)) == [("long", "small")]


def test_a_script_is_told_the_labels_of_a_workers_pool() -> None:
    """What the configuration says of a pool counts for every worker there; others have none."""
    story = Story()
    story.worker("w1", pool=PoolId("den"))
    story.worker("w2", pool=PoolId("attic"))
    story.tell(DemandRead(None, pools=(PoolId("den"),), labels={PoolId("den"): ("gpu", "quiet")}))
    story.tell(PolicyLoaded(frozenset({Hook.CHOOSE_WORKER}), "x.star"))
    [ask] = asked(story.submit())
    workers: Any = ask.arguments["workers"]
    assert {worker["pool"]: worker["labels"] for worker in workers} == {"den": ("gpu", "quiet"), "attic": ()}
