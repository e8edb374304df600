"""The brain's time: wall clock at start plus what the monotonic clock counted since, never below what was stored."""

from __future__ import annotations

import time

from llorch.base.clock import SystemClock
from llorch.core.events import ZoneChanged


class BrainClock:
    """`now` never runs backwards, in this process or over restarts, and is close to Unix seconds."""

    def __init__(self, clock: SystemClock, newest_stored: float = 0.0) -> None:
        self._clock = clock
        self._offset = max(clock.wall(), newest_stored) - clock.now()

    def now(self) -> float:
        """Seconds, as records hold them."""
        return self._clock.now() + self._offset

    def unix(self, at: float) -> float:
        """The wall clock's reading at the moment `at`."""
        return self._clock.wall() + (at - self.now())


class Zone:
    """How far local time is ahead of UTC; it changes with summer time."""

    def __init__(self) -> None:
        self._told: int | None = None

    def news(self) -> ZoneChanged | None:
        """The offset, the first time and after every change; None: nothing new."""
        offset_s = time.localtime().tm_gmtoff
        if offset_s == self._told:
            return None
        self._told = offset_s
        return ZoneChanged(offset_s)
