"""Key-value memory as numbered blocks of 128 positions: who takes which number, and how many hold it.

It knows numbers only, not what is in a block.
"""

from __future__ import annotations

import heapq

BLOCK_POSITIONS = 128


def blocks_for(positions: int) -> int:
    """Blocks that hold `positions` positions."""
    return -(-positions // BLOCK_POSITIONS)


class BlockPool:
    """Numbers 0 to `capacity` - 1, each free or held one or more times.

    The lowest free number is taken first: memory is provided when it is first written, so what was never needed at
    once stays untouched.
    """

    def __init__(self, capacity: int) -> None:
        assert capacity > 0
        self.capacity = capacity
        self._holders: dict[int, int] = {}
        self._returned: list[int] = []
        self._untouched = 0

    @property
    def free(self) -> int:
        """Blocks nobody holds."""
        return self.capacity - len(self._holders)

    def holders(self, block: int) -> int:
        """How many hold this block."""
        return self._holders.get(block, 0)

    def take(self) -> int:
        """A free block, held once."""
        assert self.free, "ask for `free` first"
        if self._returned:
            block = heapq.heappop(self._returned)
        else:
            block = self._untouched
            self._untouched += 1
        self._holders[block] = 1
        return block

    def share(self, block: int) -> None:
        """Hold a block once more."""
        self._holders[block] += 1

    def release(self, block: int) -> None:
        """Hold it once less; with the last holder it is free."""
        self._holders[block] -= 1
        if not self._holders[block]:
            del self._holders[block]
            heapq.heappush(self._returned, block)
