"""Prompt lookup: what followed the last tokens earlier in the same sequence is drafted and verified in one pass.

A draw depends on the tokens before it and on (seed, index) only, so a draft that equals the draw after it changes
nothing but the number of passes. How many are made depends on the batch, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence as Items
from dataclasses import dataclass

from llorch.batching.plan import Drawn
from llorch.batching.sequence import StopReason, common_length

DRAFTS_MAX = 7
DECODING_MAX = 8
NGRAMS = (3, 2)
INDEXED_TOKENS_MAX = 8192
INDEXED_A_STEP_MAX = 256
FIRST_LENGTH = 3
MISSES_MAX = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to append of a row's draws, how many drafts were right, and the reason when the sequence ends with it."""

    drawn: tuple[Drawn, ...]
    accepted: int
    reason: StopReason | None


def verify(drafts: Items[int], drawn: tuple[Drawn, ...], eos_ids: frozenset[int], room: int) -> Verdict:
    """Keep the draws up to the first that is not as drafted, which is a true draw all the same; `room` may still come.

    No draft is an end-of-sequence id, so only the last draw kept can be one.
    """
    assert len(drawn) == len(drafts) + 1 <= room
    accepted = common_length(drafts, [one.token_id for one in drawn])
    kept = drawn[: accepted + 1]
    if kept[-1].token_id in eos_ids:
        return Verdict(kept[:-1], accepted, StopReason.EOS)
    return Verdict(kept, accepted, StopReason.MAX_TOKENS if len(kept) == room else None)


class Drafter:
    """Drafts for one sequence: an index of where its latest n-grams were followed by what, grown as it grows.

    The drafts become longer while they are right and shorter when they are not; after misses it rests for ever more
    steps, since a wrong draft costs time and a missed chance only a step.
    """

    def __init__(self, drafts_max: int, eos_ids: frozenset[int]) -> None:
        self._drafts_max = drafts_max
        self._eos_ids = eos_ids
        self._after: dict[tuple[int, ...], int] = {}
        self._indexed = 0
        self._length = min(FIRST_LENGTH, drafts_max)
        self._misses = 0
        self._rest = 0

    def draft(self, token_ids: list[int], limit: int) -> tuple[int, ...]:
        """Up to `limit` tokens that may follow these. Changes no output, whatever it says."""
        count = min(self._length, limit)
        if self._rest or count < 1:
            return ()
        self._index(token_ids)
        for size in NGRAMS:
            at = self._after.get(tuple(token_ids[-size:]))
            if at is not None:
                return self._continue(token_ids, at, count)
        return ()

    def verified(self, drafted: int, accepted: int) -> None:
        """How the drafts of the last step were met; 0 drafted is a step without."""
        if not drafted:
            self._rest = max(0, self._rest - 1)
        elif accepted == drafted:
            self._length = min(self._drafts_max, self._length * 2)
            self._misses = 0
        elif accepted:
            self._length = accepted + 1
            self._misses = 0
        else:
            self._length = max(1, self._length // 2)
            self._misses = min(MISSES_MAX, self._misses + 1)
            self._rest = 2**self._misses - 1

    def _index(self, token_ids: list[int]) -> None:
        """Note the n-grams that have got a token after them; the last ones of the sequence have none yet.

        A long prompt is caught up with over several steps, so that none of them waits for it.
        """
        first = max(self._indexed, len(token_ids) - INDEXED_TOKENS_MAX)
        end = min(len(token_ids), first + INDEXED_A_STEP_MAX)
        for at in range(first, end):
            for size in NGRAMS:
                if at >= size:
                    ngram = tuple(token_ids[at - size : at])
                    self._after.pop(ngram, None)
                    self._after[ngram] = at
        self._indexed = end
        while len(self._after) > INDEXED_TOKENS_MAX * len(NGRAMS):
            del self._after[next(iter(self._after))]

    def _continue(self, token_ids: list[int], at: int, count: int) -> tuple[int, ...]:
        """Tokens from `at` on; where they reach the end, a repetition goes on with itself."""
        period = len(token_ids) - at
        drafts = (token_ids[at + offset % period] for offset in range(count))
        return tuple(itertools.takewhile(lambda token_id: token_id not in self._eos_ids, drafts))
