"""Everything that may change a job's state, as two tables; `spec/jobs.md` is rendered from them.

JOB_TRANSITIONS says where a happening leads. HEARD says which outside events a job in a state listens to at all; any
other event about it is illegal there and changes nothing. A job refused at the door is forgotten, not failed: it was
never accepted, so it has no ending.
"""

from __future__ import annotations

from enum import Enum

from llorch.core.events import (
    AttemptEnded,
    AttemptFailed,
    AttemptStarted,
    AttemptStopped,
    CancelRequested,
    ClientAttached,
    ClientDisconnected,
    FirstTokenSeen,
    TokensCounted,
)
from llorch.core.job import JobState

JobEvent = (
    TokensCounted
    | CancelRequested
    | ClientDisconnected
    | ClientAttached
    | AttemptStarted
    | FirstTokenSeen
    | AttemptEnded
    | AttemptFailed
    | AttemptStopped
)


class Happening(Enum):
    """What can happen to a job, with its cause."""

    ADMITTED = "admission let it in"
    PLACED = "placement chose a worker"
    STARTED = "the worker began"
    ENDED = "the worker sent its end"
    INTERRUPTED = "the attempt is lost and another may follow"
    GAVE_UP = "a timeout, a final error, or no attempt left"
    CANCEL_ASKED = "the client wants it stopped, a worker is on it"
    CANCELLED = "it is stopped and no worker is on it"


JOB_TRANSITIONS: dict[JobState, dict[Happening, JobState]] = {
    JobState.ADMITTING: {
        Happening.ADMITTED: JobState.QUEUED,
    },
    JobState.QUEUED: {
        Happening.PLACED: JobState.DISPATCHED,
        Happening.GAVE_UP: JobState.FAILED,
        Happening.CANCELLED: JobState.CANCELLED,
    },
    JobState.DISPATCHED: {
        Happening.STARTED: JobState.RUNNING,
        Happening.ENDED: JobState.COMPLETED,
        Happening.INTERRUPTED: JobState.QUEUED,
        Happening.GAVE_UP: JobState.FAILED,
        Happening.CANCEL_ASKED: JobState.CANCELLING,
        Happening.CANCELLED: JobState.CANCELLED,
    },
    JobState.RUNNING: {
        Happening.ENDED: JobState.COMPLETED,
        Happening.INTERRUPTED: JobState.QUEUED,
        Happening.GAVE_UP: JobState.FAILED,
        Happening.CANCEL_ASKED: JobState.CANCELLING,
        Happening.CANCELLED: JobState.CANCELLED,
    },
    JobState.CANCELLING: {
        Happening.CANCELLED: JobState.CANCELLED,
    },
    JobState.COMPLETED: {},
    JobState.FAILED: {},
    JobState.CANCELLED: {},
}

_CLIENT: frozenset[type[JobEvent]] = frozenset({CancelRequested, ClientDisconnected, ClientAttached})
_STOPPED: frozenset[type[JobEvent]] = frozenset({AttemptStopped})
_STARTED: frozenset[type[JobEvent]] = frozenset({AttemptStarted})
_ATTEMPT: frozenset[type[JobEvent]] = frozenset({FirstTokenSeen, AttemptEnded, AttemptFailed})

HEARD: dict[JobState, frozenset[type[JobEvent]]] = {
    JobState.ADMITTING: frozenset({TokensCounted, CancelRequested, ClientDisconnected}),
    JobState.QUEUED: _CLIENT | _STOPPED,
    JobState.DISPATCHED: _CLIENT | _STOPPED | _STARTED | _ATTEMPT,
    JobState.RUNNING: _CLIENT | _STOPPED | _ATTEMPT,
    JobState.CANCELLING: _STOPPED | frozenset({AttemptEnded, AttemptFailed}),
    JobState.COMPLETED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


def after(state: JobState, happening: Happening) -> JobState:
    """Where the happening leads from this state; asking for an empty cell is our own bug."""
    row = JOB_TRANSITIONS[state]
    assert happening in row, f"{happening.name} cannot happen to a {state.value} job"
    return row[happening]
