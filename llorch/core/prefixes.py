"""Which workers hold which beginnings of prompts in their caches, by the digests that their heartbeats name.

A digest names everything before it, so a worker that holds one holds the whole beginning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from llorch.base.ids import WorkerId

Holders = Mapping[WorkerId, None]
# With more holders than this a beginning is common.
CROWD = 32


class Held(NamedTuple):
    """The beginnings of one prompt that workers hold: how many of its `total` parts, and who; the longest first."""

    total: int = 0
    levels: tuple[tuple[int, Holders], ...] = ()

    def parts_on(self, worker_id: WorkerId) -> int:
        """How many parts this worker holds."""
        return next((parts for parts, holders in self.levels if worker_id in holders), 0)


class PrefixIndex:
    """Digest to its holders, in the order in which they came to hold it; as large as what the workers report."""

    def __init__(self) -> None:
        self._holders: dict[str, dict[WorkerId, None]] = {}
        self._reported: dict[WorkerId, frozenset[str]] = {}

    def report(self, worker_id: WorkerId, digests: frozenset[str]) -> None:
        """From now on the worker holds these and no others."""
        before = self._reported.pop(worker_id, frozenset())
        if digests:
            self._reported[worker_id] = digests
        for digest in before - digests:
            holders = self._holders[digest]
            del holders[worker_id]
            if not holders:
                del self._holders[digest]
        for digest in digests - before:
            self._holders.setdefault(digest, {})[worker_id] = None

    def held(self, digests: Sequence[str]) -> Held:
        """Who holds what of a prompt with these digests (the shortest beginning first)."""
        levels: list[tuple[int, Holders]] = []
        longer: Holders = {}
        for parts in range(len(digests), 0, -1):
            holders = self._holders.get(digests[parts - 1], {})
            # A shorter beginning on the same workers says nothing more; comparing crowds would cost more than it saves.
            if holders and not (len(holders) <= CROWD and holders == longer):
                levels.append((parts, holders))
                longer = holders
        return Held(len(digests), tuple(levels))
