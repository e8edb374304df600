"""Accounting of key-value memory in blocks of 128 positions; owns no memory, only the count of it."""

from __future__ import annotations

BLOCK_POSITIONS = 128


def blocks_for(positions: int) -> int:
    """Blocks that hold `positions` positions."""
    return -(-positions // BLOCK_POSITIONS)


class BlockPool:
    """A capacity in blocks and who holds how many. The whole need of an owner is reserved at once, so that an
    admitted sequence can never run out half-way.
    """

    def __init__(self, capacity: int) -> None:
        assert capacity > 0
        self.capacity = capacity
        self._held: dict[str, int] = {}

    @property
    def free(self) -> int:
        """Blocks nobody holds."""
        return self.capacity - sum(self._held.values())

    def reserve(self, owner: str, positions: int) -> bool:
        """Take the blocks for `positions`; False, and nothing taken, when there are too few."""
        assert owner not in self._held
        need = blocks_for(positions)
        if need > self.free:
            return False
        self._held[owner] = need
        return True

    def release(self, owner: str) -> None:
        """Give back what `owner` holds; an owner that holds nothing is fine."""
        self._held.pop(owner, None)
