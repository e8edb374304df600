"""Where an event stream stands, and whether and when to connect again. Pure: the random source is an argument.

Invariant: the events given out are those of one undisturbed stream, whatever the drops: no token twice, no gap.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from llorch.base.errors import JobNotFound, LlorchError, Unreachable
from llorch.client.events import End, ErrorEvent, InferenceEvent, Token, from_wire
from llorch.wire.sse import Event, EventReader

FAILURES_MAX = 12
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 5.0


class Resume:
    """One job's stream across connections: feed bytes, take events; after a drop ask how long to wait."""

    def __init__(self, job_id: str, rng: Random) -> None:
        self.job_id = job_id
        self.finished = False
        self.last_event_id: int | None = None
        self._rng = rng
        self._next_i = 0
        self._failures = 0
        self._reader = EventReader()

    def connected(self) -> None:
        """A new connection begins: a half-read frame of the old one is void."""
        self._reader = EventReader()

    def feed(self, data: bytes) -> Iterator[InferenceEvent]:
        """The new events completed by `data`. Raises LlorchError for a stream that has a gap or is malformed."""
        for frame in self._reader.feed(data):
            if self.finished or self._is_repeat(frame):
                continue
            event = from_wire(frame.data)
            if event is None:
                continue
            if isinstance(event, Token):
                if event.i < self._next_i:
                    continue
                if event.i > self._next_i:
                    raise LlorchError(f"the stream of {self.job_id} has a gap: piece {self._next_i} is missing")
                self._next_i += 1
            self._failures = 0
            if frame.id is not None:
                self.last_event_id = frame.id
            self.finished = isinstance(event, (End, ErrorEvent))
            yield event

    def _is_repeat(self, frame: Event) -> bool:
        """Ids only grow; a frame without one (metrics, a repeated queued) is never a repeat."""
        return frame.id is not None and self.last_event_id is not None and frame.id <= self.last_event_id

    def dropped(self, reason: LlorchError) -> float:
        """Seconds to wait before connecting again (exponential, jittered).

        Raises `reason` when it is final or the tries without progress are used up.
        """
        if not isinstance(reason, Unreachable) and (not reason.retriable or isinstance(reason, JobNotFound)):
            raise reason
        self._failures += 1
        if self._failures > FAILURES_MAX:
            raise reason
        ceiling = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** (self._failures - 1))
        return max(reason.retry_after_s or 0.0, self._rng.uniform(ceiling / 2, ceiling))
