"""Finds stop strings in text that arrives in pieces, and says how much of it can no longer be part of one.

The result does not depend on how the text is cut into pieces: the stop string that ends first wins, and of those that
end together the longest.
"""

from __future__ import annotations


class StopMatcher:
    """Offsets count characters from the start of the text.

    `safe`: text before it belongs to no stop string. `stopped_at`: where the stop string begins, once there is one;
    then `safe` equals it and further text is ignored.
    """

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        assert all(stop), "an empty stop string would match everywhere"
        self._stop = stop
        self._tail = ""
        self.safe = 0
        self.stopped_at: int | None = None

    def feed(self, text: str) -> None:
        """Take the next piece of text in."""
        if self.stopped_at is not None:
            return
        self._tail += text
        match = self._first_match()
        if match is not None:
            self.stopped_at = self.safe + match
            self.safe = self.stopped_at
            return
        hold = min((self._hold_from(stop) for stop in self._stop), default=len(self._tail))
        self._tail = self._tail[hold:]
        self.safe += hold

    def _first_match(self) -> int | None:
        found = [(at + len(stop), at) for stop in self._stop if (at := self._tail.find(stop)) >= 0]
        return min(found)[1] if found else None

    def _hold_from(self, stop: str) -> int:
        """The first offset in the tail from which the tail could still become `stop`."""
        at = self._tail.find(stop[0], max(0, len(self._tail) - len(stop) + 1))
        while at >= 0:
            if stop.startswith(self._tail[at:]):
                return at
            at = self._tail.find(stop[0], at + 1)
        return len(self._tail)
