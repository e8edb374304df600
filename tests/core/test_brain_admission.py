"""The door and the queue: who is taken, who is refused, who is next."""

from __future__ import annotations

from dataclasses import replace

import pytest
from brain_given import (
    SETTINGS,
    Story,
    accepted,
    beat,
    dispatched,
    finished,
    kinds,
    refusal,
    with_worker,
)

from llorch.base.ids import JobId, ModelId, PoolId, WorkerId
from llorch.core import events as happened
from llorch.core.brain import Brain, QueuePlace
from llorch.core.effects import (
    Announce,
    CountTokens,
    Dispatch,
    Duplicate,
)
from llorch.core.job import Priority, Wishes
from llorch.core.policy import BuiltinPolicy, QueueView, TaskView, WhenFull

J1 = JobId("j1")


def test_an_accepted_job_is_committed_answered_and_dispatched_in_this_order() -> None:
    """Persist before Accept, Accept before Dispatch; `early` because the client is attached."""
    story = Story()
    story.worker()
    effects = story.submit(attached=True, timeout_s=30.0)
    assert kinds(effects) == ["keep dispatched", "Accept", "Dispatch"]
    assert effects[-1] == Dispatch(J1, 1, WorkerId("w1"), "http://w1", True, 120.0, 30.0, 130.0)
    assert not any(e.early for e in with_worker().submit() if isinstance(e, Dispatch))


def test_a_known_model_without_a_worker_waits() -> None:
    """Known or omitted with no ready worker: accepted and queued."""
    story = Story()
    assert kinds(story.submit()) == ["keep queued", "Accept"]
    assert kinds(story.submit("j2", model=None)) == ["keep queued", "Accept"]
    assert story.brain.position(JobId("j2")) == QueuePlace(1, None)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model": ModelId("unheard-of")}, "MODEL_NOT_FOUND"),
        ({"deadline_s": 0.0}, "DEADLINE_UNMET"),
        ({"wishes": Wishes(pin_worker="w9")}, "WORKER_UNAVAILABLE"),
        ({"wishes": Wishes(pin_pool="p9")}, "POOL_UNAVAILABLE"),
        ({"wishes": Wishes(pin_worker="w1", avoid_pools=("local",))}, "WORKER_UNAVAILABLE"),
        ({"wishes": Wishes(pin_worker="w1"), "model": ModelId("other")}, "WORKER_UNAVAILABLE"),
        ({"prompt_tokens": 2040}, "CONTEXT_LENGTH_EXCEEDED"),
        ({"max_tokens": 2048}, "CONTEXT_LENGTH_EXCEEDED"),
    ],
)
def test_what_cannot_be_is_refused_with_its_code(changes: dict[str, object], code: str) -> None:
    """Every refusal at the door has its stable code, and leaves nothing behind."""
    story = with_worker()
    before = story.look()
    assert refusal(story.submit(**changes)).code == code
    assert story.look() == before


def test_a_model_ever_announced_is_known() -> None:
    """A model that no catalog names is known once a worker announced it, even when that worker is gone."""
    story = Story()
    assert refusal(story.submit(model=ModelId("new"))).code == "MODEL_NOT_FOUND"
    story.worker(model=ModelId("new"))
    story.wait(6.0)
    assert kinds(story.submit(model=ModelId("new"))) == ["keep queued", "Accept"]


def test_bytes_that_prove_nothing_are_counted() -> None:
    """A prompt longer than the context in bytes is counted by a worker before it is accepted or refused."""
    story = with_worker()
    assert story.submit(prompt_bytes=5000) == [CountTokens(J1, WorkerId("w1"), "http://w1", 5.0)]
    assert story.brain.job(J1) is None
    assert story.brain.counts().queue_depth == 1
    assert kinds(story.tell(happened.TokensCounted(J1, 1000))) == ["keep dispatched", "Accept", "Dispatch"]
    story.submit("j2", prompt_bytes=5000)
    refused = refusal(story.tell(happened.TokensCounted(JobId("j2"), 2040)))
    assert refused.code == "CONTEXT_LENGTH_EXCEEDED"
    assert refused.details == {"prompt_tokens": 2040, "max_tokens": 20, "context_length": 2048}


@pytest.mark.parametrize("silent", [True, False])
def test_a_worker_that_cannot_count_leaves_it_to_dispatch(silent: bool) -> None:
    """No answer in time, or None, admits the job; the worker that gets it has the last word."""
    story = with_worker()
    story.submit(prompt_bytes=5000)
    effects = story.wait(5.0) if silent else story.tell(happened.TokensCounted(J1, None))
    assert "Accept" in kinds(effects)


def test_the_second_of_two_same_keys_gets_the_first_job() -> None:
    """Idempotency: one job a key and tenant, also after it ended and while the first is being counted."""
    story = with_worker()
    story.submit(idempotency_key="k")
    assert story.submit("j2", idempotency_key="k") == [Duplicate(JobId("j2"), J1)]
    story.end()
    assert story.submit("j3", idempotency_key="k") == [Duplicate(JobId("j3"), J1)]
    story.submit("j4", idempotency_key="c", prompt_bytes=5000)
    assert kinds(story.submit("j5", idempotency_key="c")) == ["keep dispatched", "Accept", "Dispatch"]
    assert story.tell(happened.TokensCounted(JobId("j4"), 5)) == [Duplicate(JobId("j4"), JobId("j5"))]


def test_a_full_queue_refuses_with_the_learned_time() -> None:
    """Retry-After comes from the drain rate, 1 to 120 s; 10 s while it is unknown."""
    story = Story(replace(SETTINGS, queue_capacity=1))
    story.submit()
    assert refusal(story.submit("j2")).retry_after_s == 10.0
    story.worker()
    story.end()
    for number in range(20):
        story.now += 0.5
        story.submit(f"x{number}")
        story.tell(beat("w1"))
        story.end(f"x{number}")
    story.submit("j3")
    story.submit("j4")
    refused = refusal(story.submit("j5"))
    assert (refused.code, refused.retry_after_s) == ("QUEUE_FULL", 1.0)
    story.now += 100_000
    assert refusal(story.submit("j5")).retry_after_s == 120.0


class Dropping(BuiltinPolicy):
    def on_queue_full(self, task: TaskView, queue: QueueView) -> WhenFull:
        return WhenFull.DROP_OLDEST_BATCH


def test_policy_may_drop_the_oldest_batch_job_for_an_arrival() -> None:
    """The dropped job ends with QUEUE_FULL, the new one is in; without batch jobs the arrival is refused."""
    settings = replace(SETTINGS, queue_capacity=2)
    story = Story(brain=Brain(settings, Dropping(settings)))
    story.submit(priority=Priority.BATCH)
    story.submit("j2", priority=Priority.BATCH)
    effects = story.submit("j3")
    assert finished(effects) == [("j1", "failed", "QUEUE_FULL")]
    assert accepted(effects).queue_position == 0
    story.submit("j4")
    assert refusal(story.submit("j5")).code == "QUEUE_FULL"


def test_a_draining_orchestrator_takes_and_starts_nothing_new() -> None:
    """Waiting jobs stay for the next start; what runs may finish and be continued."""
    story = Story()
    story.worker(slots_total=2)
    story.submit()
    story.first()
    story.submit("j2")
    story.submit("j3")
    story.tell(happened.DrainStarted())
    assert refusal(story.submit("j4")).code == "DRAINING"
    assert dispatched(story.end("j2")) == []
    assert dispatched(story.fail(frames=1)) == []
    assert dispatched(story.tell(beat("w1"))) == [("j1", "w1")]


def test_interactive_before_batch_and_batch_ages_upward() -> None:
    """Batch waits behind interactive, but after `batch_ageing_s` newcomers queue behind it."""
    story = Story()
    story.submit(priority=Priority.BATCH)
    story.now += 200
    story.submit("j2")
    assert [story.brain.position(JobId(name)) for name in ("j1", "j2")] == [QueuePlace(1, None), QueuePlace(0, None)]
    story.now += 150
    story.submit("j3")
    assert story.brain.position(JobId("j3")) == QueuePlace(2, None)
    assert dispatched(story.worker()) == [("j2", "w1")]
    assert dispatched(story.end("j2")) == [("j1", "w1")]


def test_a_job_that_nobody_can_serve_blocks_nobody() -> None:
    """A job for a draining pool's worker, first in line, does not keep the next one waiting."""
    story = Story()
    story.worker("w1", pool=PoolId("p1"))
    story.submit("j1")
    story.submit("j2", wishes=Wishes(pin_worker="w1"))
    story.submit("j3")
    assert dispatched(story.worker("w2")) == [("j3", "w2")]


def test_attached_clients_hear_of_a_changed_place_once_a_second() -> None:
    """Announce goes to attached waiting clients only, at most once a second, and only when something changed."""
    story = Story()
    for name in ("j1", "j2", "j3"):
        story.submit(name, attached=name == "j3")
    assert story.wait(3.0) == []
    story.cancel("j1")
    story.cancel("j2")
    announced = [e for e in story.wait(3.0) if isinstance(e, Announce)]
    assert announced == [Announce(JobId("j3"), 0, None)]


def test_the_catalog_may_change_while_jobs_come() -> None:
    """A model is unknown until the catalog says it; an alias means its model until a worker takes it as its id."""
    story = Story()
    assert refusal(story.submit("j1", model=ModelId("new"))).code == "MODEL_NOT_FOUND"
    story.tell(happened.CatalogRead(frozenset({ModelId("new")}), (("nick", ModelId("new")),)))
    assert accepted(story.submit("j1", model=ModelId("new")))
    assert accepted(story.submit("j2", model=ModelId("nick")))
    record = story.brain.job(JobId("j2"))
    assert record is not None and record.spec.model == "new"
    story.worker("w9", model=ModelId("nick"))
    assert dispatched(story.submit("j3", model=ModelId("nick"))) == [("j3", "w9")]
    story.tell(happened.CatalogRead(frozenset()))
    assert refusal(story.submit("j4", model=ModelId("newer"))).code == "MODEL_NOT_FOUND"


def test_a_job_that_was_not_stored_never_was() -> None:
    """The commit failed: the slot comes free, the key is free, nothing is persisted and nobody is told an end."""
    story = with_worker()
    story.submit(idempotency_key="k", timeout_s=9.0)
    story.submit("j2", idempotency_key="q")
    effects = story.tell(happened.JobNotStored(JobId("j2")))
    assert kinds(effects) == [] and story.brain.position(JobId("j2")) is None
    assert kinds(story.tell(happened.JobNotStored(J1))) == ["CancelAttempt"]
    assert story.brain.job(J1) is None and story.brain.counts().running == 0
    assert kinds(story.submit("j3", idempotency_key="k")) == ["keep queued", "Accept"]
    assert dispatched(story.fail()) == [("j3", "w1")]
    story.submit("j4", idempotency_key="x")
    story.cancel("j4")
    story.tell(happened.JobNotStored(JobId("j4")))
    assert "Accept" in kinds(story.submit("j5", idempotency_key="x"))


def test_bytes_of_a_chat_prove_less() -> None:
    """A template adds tokens: a chat that would just fit as a plain prompt is counted; one well below is not."""
    story = Story()
    story.worker(slots_total=9)
    assert "Accept" in kinds(story.submit(prompt_bytes=2000))
    assert kinds(story.submit("j2", prompt_bytes=2028)) == ["CountTokens"]
    assert kinds(story.submit("j3", prompt_bytes=2000, messages=2)) == ["CountTokens"]
    assert "Accept" in kinds(story.submit("j4", prompt_bytes=1500, messages=2))


def test_a_deadline_may_pass_while_tokens_are_counted() -> None:
    """Counting took longer than the job may: DEADLINE_UNMET before anything is promised."""
    story = with_worker()
    story.submit(prompt_bytes=5000, deadline_s=1.0)
    story.now += 1.0
    assert refusal(story.tell(happened.TokensCounted(J1, 5))).code == "DEADLINE_UNMET"
