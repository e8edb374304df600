"""Time as an argument: `now` is monotonic seconds, `wall` is Unix seconds."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What a shell needs of time; the pure cores get `now` as a plain number."""

    def now(self) -> float:
        """Monotonic seconds, from an arbitrary start."""
        ...

    def wall(self) -> float:
        """Unix seconds."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


class ManualClock:
    """A clock that moves only when told: for tests and simulation."""

    def __init__(self, now: float = 0.0, wall: float = 1_700_000_000.0) -> None:
        self._now = now
        self._wall = wall

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._wall

    def advance(self, seconds: float) -> None:
        """Move both clocks forward by `seconds` (>= 0)."""
        assert seconds >= 0
        self._now += seconds
        self._wall += seconds


def iso(wall: float) -> str:
    """ISO 8601 UTC with milliseconds, as used on the wire: 2025-10-09T14:30:00.123Z."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
