"""When a script fails too often it is left alone for a while. Pure: time comes in as an argument."""

from __future__ import annotations

from collections import deque

FAILURES_MAX = 5
WINDOW_S = 60.0
OPEN_S = 30.0


class Breaker:
    """Opens at the fifth failure within a minute, for half a minute; then it counts afresh."""

    def __init__(self) -> None:
        self._failures: deque[float] = deque(maxlen=FAILURES_MAX)
        self._open_until: float | None = None

    def failed(self, now: float) -> None:
        """Note a failure of the script."""
        self._failures.append(now)
        if len(self._failures) == FAILURES_MAX and now - self._failures[0] <= WINDOW_S:
            self._open_until = now + OPEN_S
            self._failures.clear()

    def reset(self) -> None:
        """Another script: nothing is held against it."""
        self._failures.clear()
        self._open_until = None

    def is_open(self, now: float) -> bool:
        """Is the script left alone at this moment?"""
        return self._open_until is not None and now < self._open_until

    def is_troubled(self, now: float) -> bool:
        """Has the script failed, or been left alone, within the last minute?"""
        latest = max([*self._failures, *([] if self._open_until is None else [self._open_until])], default=None)
        return latest is not None and now - latest <= WINDOW_S
