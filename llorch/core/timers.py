"""What the brain waits for: one bell per (kind, id), set, moved and cleared in O(log n)."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from heapq import heapify, heappop, heappush

COMPACT_BELOW = 64


class Bell(StrEnum):
    """The kinds of waiting, by what is done when the time has come. (Strings, because they are hashed all the time.)

    The first word says whose id the bell is set for.
    """

    COUNT = "job count"  # the worker did not count the prompt in time
    QUEUE = "job queue"  # the job waited too long for its first attempt
    TOTAL = "job total"  # the job's own deadline or timeout
    BACKOFF = "job backoff"  # the job may be placed again
    REUNION = "job reunion"  # a broken-off job found no worker to go on
    STOP = "job stop"  # a stopped attempt was not reported over in time
    GRACE = "job grace"  # the dropped client did not come back
    ASK = "question answer"  # the policy script said nothing in time
    SEAT = "attempt seat"  # a stopped attempt's slot counts as free
    LEASE = "worker lease"  # the worker's lease ran out
    REST = "worker rest"  # a busy worker may be asked again
    BREAKER = "worker breaker"  # a failing worker may be tried again
    FORGET = "worker forget"  # a lost worker leaves the list
    SESSION = "session unused"  # an opened session may have been unused for its time
    ANNOUNCE = "all announce"  # tell attached clients their places
    PINS = "all pins"  # look after pins that cannot be met
    DEMAND = "all demand"  # see what has to be loaded or unloaded
    AGEING = "all ageing"  # the first background job has waited off its handicap


JOB_BELLS = tuple(bell for bell in Bell if bell.startswith("job "))
WORKER_BELLS = tuple(bell for bell in Bell if bell.startswith("worker "))

Wait = tuple[Bell, str]


class Timers:
    """A heap with lazy deletion; at most about as many stale entries as live ones."""

    def __init__(self) -> None:
        self._armed: dict[Wait, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Wait]] = []
        self._serial = 0

    def set(self, bell: Bell, name: str, at: float) -> None:
        """Ring at `at`; replaces what was set for the same bell and name."""
        wait = (bell, name)
        self._serial += 1
        self._armed[wait] = (at, self._serial)
        heappush(self._heap, (at, self._serial, wait))
        if len(self._heap) > 2 * len(self._armed) + COMPACT_BELOW:
            self._heap = [(when, serial, wait) for wait, (when, serial) in self._armed.items()]
            heapify(self._heap)

    def clear(self, bell: Bell, name: str) -> None:
        """Do not ring; fine when nothing was set."""
        self._armed.pop((bell, name), None)

    def clear_job(self, job_id: str) -> None:
        """Nothing rings for this job any more."""
        for bell in JOB_BELLS:
            self._armed.pop((bell, job_id), None)

    def clear_worker(self, worker_id: str) -> None:
        """Nothing rings for this worker any more."""
        for bell in WORKER_BELLS:
            self._armed.pop((bell, worker_id), None)

    def armed(self, bell: Bell, name: str) -> bool:
        return (bell, name) in self._armed

    def next(self) -> float | None:
        """When the next bell rings."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> Iterator[Wait]:
        """Each bell whose time has come, earliest first; one that is set again for later rings later."""
        while True:
            self._drop_stale()
            if not self._heap or self._heap[0][0] > now:
                return
            wait = heappop(self._heap)[2]
            del self._armed[wait]
            yield wait

    def _drop_stale(self) -> None:
        while self._heap:
            at, serial, wait = self._heap[0]
            if self._armed.get(wait) == (at, serial):
                return
            heappop(self._heap)
