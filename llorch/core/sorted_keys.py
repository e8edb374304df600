"""Ordered sets that answer places: keys in order, and how many of a crowd have at least so many."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

CHUNK_MAX = 1024

K = TypeVar("K", bound=tuple[Any, ...])


class SortedKeys(Generic[K]):
    """A sorted set of keys in chunks: add, remove and rank cost one bisect over chunks and one inside."""

    __slots__ = ("_chunks", "_lasts", "_len")

    def __init__(self) -> None:
        self._chunks: list[list[K]] = []
        self._lasts: list[K] = []
        self._len = 0

    def __len__(self) -> int:
        return self._len

    def __iter__(self) -> Iterator[K]:
        for chunk in self._chunks:
            yield from chunk

    def first(self) -> K:
        """The smallest key; the set must not be empty."""
        return self._chunks[0][0]

    def add(self, key: K) -> None:
        self._len += 1
        if not self._chunks:
            self._chunks.append([key])
            self._lasts.append(key)
            return
        if key > self._lasts[-1]:  # most come in order
            at = len(self._chunks) - 1
            chunk = self._chunks[at]
            chunk.append(key)
        else:
            at = bisect_left(self._lasts, key)
            chunk = self._chunks[at]
            insort(chunk, key)
        self._lasts[at] = chunk[-1]
        if len(chunk) > CHUNK_MAX:
            half = len(chunk) // 2
            self._chunks[at : at + 1] = [chunk[:half], chunk[half:]]
            self._lasts[at : at + 1] = [chunk[half - 1], chunk[-1]]

    def remove(self, key: K) -> None:
        """Take the key out; it must be there."""
        at = bisect_left(self._lasts, key)
        chunk = self._chunks[at]
        inside = bisect_left(chunk, key)
        assert chunk[inside] == key
        del chunk[inside]
        self._len -= 1
        if chunk:
            self._lasts[at] = chunk[-1]
        else:
            del self._chunks[at], self._lasts[at]

    def move(self, old: K, new: K) -> None:
        """Put one key in the place of another, which must be there."""
        if self._len == 1:
            self._chunks[0][0] = self._lasts[0] = new
            return
        self.remove(old)
        self.add(new)

    def rank(self, key: K) -> int:
        """How many keys are smaller."""
        if self._lasts and key >= (last := self._lasts[-1]):
            return self._len - (key == last)
        at = bisect_left(self._lasts, key)
        below = sum(map(len, self._chunks[:at]))
        return below + (bisect_left(self._chunks[at], key) if at < len(self._chunks) else 0)


class Crowd:
    """Counts that grow and shrink by one each: how many are at least j, and the sum of min(count, k) over all.

    Kept as a Fenwick tree over j of "how many counts are at least j": each step of a count changes one j.
    """

    __slots__ = ("_at_least", "_tree")

    def __init__(self) -> None:
        self._at_least = [0, 0]
        self._tree = [0, 0]

    def grew(self, count: int) -> None:
        """One of the counts went up to this."""
        while count >= len(self._tree):
            self._double()
        self._add(count, 1)

    def shrank(self, count: int) -> None:
        """One of the counts went down from this."""
        self._add(count, -1)

    def at_least(self, count: int) -> int:
        """How many of the counts, all above 0, are at least this."""
        return self._at_least[count] if count < len(self._at_least) else 0

    def turns(self, each: int) -> int:
        """The sum over all counts of the smaller of the count and `each`."""
        at, total = min(each, len(self._tree) - 1), 0
        while at > 0:
            total += self._tree[at]
            at -= at & -at
        return total

    def _add(self, at: int, change: int) -> None:
        self._at_least[at] += change
        tree, end = self._tree, len(self._tree)
        while at < end:
            tree[at] += change
            at += at & -at

    def _double(self) -> None:
        # With a power of two as the last index that one holds the sum of all, so the new half starts from it.
        last = len(self._tree) - 1
        self._tree += [0] * (last - 1) + [self._tree[last]]
        self._at_least += [0] * last
