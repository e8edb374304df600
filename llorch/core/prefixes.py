"""Which workers hold which beginnings of prompts in their caches, by the digests that their heartbeats name.

A digest names everything before it, so a worker that holds one holds the whole beginning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from llorch.base.ids import WorkerId

Holders = Mapping[WorkerId, None]


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

    def held(self, digests: Iterable[str]) -> Held:
        """Who holds what of a prompt with these digests (the shortest beginning first)."""
        known = [self._holders.get(digest) for digest in digests]
        levels = [(parts, holders) for parts, holders in enumerate(known, 1) if holders is not None]
        return Held(len(known), tuple(reversed(levels)))
