"""Time as an argument: `now` is monotonic seconds, `wall` is Unix seconds."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class SystemClock:
    """The machine's own clocks, for the shells; the pure cores get `now` as a plain number."""

    def now(self) -> float:
        """Monotonic seconds, from an arbitrary start."""
        return time.monotonic()

    def wall(self) -> float:
        """Unix seconds."""
        return time.time()


def iso(wall: float) -> str:
    """ISO 8601 UTC with milliseconds, as used on the wire: 2025-10-09T14:30:00.123Z."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
