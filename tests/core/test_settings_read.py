"""Settings of the operator's that change while the brain works."""

from __future__ import annotations

from dataclasses import replace

from brain_given import SETTINGS, Story, accepted, kinds, refusal

from llorch.base.ids import JobId
from llorch.core import events as happened
from llorch.core.effects import Dispatch


def test_new_settings_hold_for_jobs_from_now_on() -> None:
    """The queue's bound at once; a job that was accepted keeps the limits it was accepted with."""
    story = Story()
    accepted(story.submit("j1"))
    accepted(story.submit("j2"))
    changed = replace(SETTINGS, queue_capacity=3, first_token_timeout_s=7.0, stall_timeout_s=3.0)
    assert story.tell(happened.SettingsRead(changed)) == []
    accepted(story.submit("j3"))
    assert refusal(story.submit("j4")).code == "QUEUE_FULL"
    effects = story.worker(slots_total=4)
    limits = {e.job_id: (e.first_token_timeout_s, e.stall_timeout_s) for e in effects if isinstance(e, Dispatch)}
    assert limits == {JobId("j1"): (120.0, 30.0), JobId("j2"): (120.0, 30.0), JobId("j3"): (7.0, 3.0)}


def test_the_same_settings_again_change_nothing() -> None:
    """Nothing is decided and nothing shows."""
    story = Story()
    story.submit("j1")
    before = story.look()
    assert story.tell(happened.SettingsRead(SETTINGS)) == [] and story.look() == before


def test_a_queue_that_is_longer_than_its_new_bound_is_worked_off() -> None:
    """Who waits stays; nobody new comes in until there is room."""
    story = Story()
    for number in (1, 2, 3):
        story.submit(f"j{number}")
    story.tell(happened.SettingsRead(replace(SETTINGS, queue_capacity=1)))
    assert story.brain.counts().queue_depth == 3
    assert refusal(story.submit("j4")).code == "QUEUE_FULL"
    story.worker(slots_total=3)
    assert kinds(story.submit("j4")) == ["keep queued", "Accept"]
