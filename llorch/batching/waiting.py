"""Who is admitted next: first come, first served, but one that does not fit may be overtaken so many times."""

from __future__ import annotations

import bisect
import operator
from collections.abc import Callable

from llorch.batching.sequence import Sequence

CANDIDATES_MAX = 8
OVERTAKEN_MAX = 16

arrival = operator.attrgetter("arrival")


class WaitingList:
    """Sequences in the order of their arrival, also those that were running before."""

    def __init__(self) -> None:
        self._sequences: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._sequences)

    def add(self, sequence: Sequence) -> None:
        """Before all that came later."""
        bisect.insort(self._sequences, sequence, key=arrival)

    def remove(self, sequence: Sequence) -> None:
        """It has been admitted, or has ended."""
        self._sequences.remove(sequence)

    def first(self) -> Sequence:
        """The one that came first."""
        return self._sequences[0]

    def first_fitting(self, fits: Callable[[Sequence], bool]) -> Sequence | None:
        """The first that fits, unless one that it would overtake has been overtaken often enough."""
        passed: list[Sequence] = []
        for sequence in self._sequences[:CANDIDATES_MAX]:
            if fits(sequence):
                for other in passed:
                    other.overtaken += 1
                return sequence
            if sequence.overtaken >= OVERTAKEN_MAX:
                return None
            passed.append(sequence)
        return None
