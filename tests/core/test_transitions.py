"""The tables of transitions: what they promise, and that the brain keeps to every cell, the empty ones included."""

from __future__ import annotations

import runpy
from collections import deque
from pathlib import Path

import pytest
from brain_given import Story

from llorch.base.ids import JobId
from llorch.core import events as happened
from llorch.core.job import Failure, FailureKind, JobState, Result
from llorch.core.transitions import HEARD, JOB_TRANSITIONS, Happening, JobEvent, after

ROOT = Path(__file__).resolve().parents[2]
J1 = JobId("j1")

EVENTS: dict[type[JobEvent], JobEvent] = {
    happened.TokensCounted: happened.TokensCounted(J1, 5),
    happened.CancelRequested: happened.CancelRequested(J1),
    happened.ClientDisconnected: happened.ClientDisconnected(J1),
    happened.ClientAttached: happened.ClientAttached(J1),
    happened.AttemptStarted: happened.AttemptStarted(J1, 1),
    happened.FirstTokenSeen: happened.FirstTokenSeen(J1, 1),
    happened.AttemptEnded: happened.AttemptEnded(J1, 1, Result("EOS", 3)),
    happened.AttemptFailed: happened.AttemptFailed(J1, 1, Failure(FailureKind.REJECTED, "INVALID_REQUEST"), 0, 0),
    happened.AttemptStopped: happened.AttemptStopped(J1, 1, 3),
}


def in_state(state: JobState) -> Story:
    """A brain whose job j1 is in this state."""
    story = Story()
    if state is JobState.ADMITTING:
        story.worker()
        story.submit(prompt_bytes=5000)
        return story
    if state is not JobState.QUEUED:
        story.worker()
    story.submit()
    if state in (JobState.RUNNING, JobState.COMPLETED, JobState.FAILED):
        story.tell(happened.AttemptStarted(J1, 1))
    if state in (JobState.CANCELLING, JobState.CANCELLED):
        story.cancel()
    if state is JobState.COMPLETED:
        story.end()
    if state is JobState.FAILED:
        story.tell(EVENTS[happened.AttemptFailed])
    if state is JobState.CANCELLED:
        story.end()
    return story


@pytest.mark.parametrize("state", JobState)
@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_every_state_answers_every_event_as_the_table_says(state: JobState, kind: type[JobEvent]) -> None:
    """An event outside HEARD changes nothing at all; one inside leads where JOB_TRANSITIONS allows."""
    story = in_state(state)
    before = story.look()
    effects = story.tell(EVENTS[kind])
    if kind not in HEARD[state]:
        assert effects == []
        assert story.look() == before
        return
    record = story.brain.job(J1)
    if record is not None and record.state is not state:
        reachable, edge = {state}, deque([state])
        while edge:
            for further in JOB_TRANSITIONS[edge.popleft()].values():
                if further not in reachable:
                    reachable.add(further)
                    edge.append(further)
        assert record.state in reachable


@pytest.mark.parametrize("state", [JobState.DISPATCHED, JobState.RUNNING, JobState.CANCELLING])
@pytest.mark.parametrize(
    "event",
    [
        happened.AttemptStarted(J1, 7),
        happened.FirstTokenSeen(J1, 7),
        happened.AttemptEnded(J1, 7, Result("EOS", 3)),
        happened.AttemptFailed(J1, 7, Failure(FailureKind.BROKEN), 2, 2),
    ],
    ids=lambda event: type(event).__name__,
)
def test_another_attempt_is_not_heard(state: JobState, event: JobEvent) -> None:
    """Only the current attempt speaks for its job."""
    story = in_state(state)
    before = story.look()
    assert story.tell(event) == []
    assert story.look() == before


def test_terminal_states_lead_nowhere_and_hear_nothing() -> None:
    """What has ended stays ended."""
    for state in JobState:
        assert state.terminal == (not JOB_TRANSITIONS[state])
        assert not (state.terminal and HEARD[state])


def test_every_state_can_be_reached_and_left() -> None:
    """No state is a trap, none is unreachable."""
    reached = {target for row in JOB_TRANSITIONS.values() for target in row.values()}
    assert reached | {JobState.ADMITTING} == set(JobState)


def test_an_empty_cell_is_our_bug() -> None:
    """Asking for a transition that does not exist fails loudly."""
    with pytest.raises(AssertionError):
        after(JobState.COMPLETED, Happening.ENDED)


def test_the_spec_is_rendered_from_the_tables() -> None:
    """spec/jobs.md shows what the code does; else run build/render_jobs.py."""
    render = runpy.run_path(str(ROOT / "build" / "render_jobs.py"))["render"]
    text = (ROOT / "spec" / "jobs.md").read_text()
    assert render(text) == text
