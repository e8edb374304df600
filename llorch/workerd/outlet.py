"""The event loop's end of one sequence: the step thread's pieces wait here until the HTTP handler takes them.

Loss-free and bounded: a backlog past `PIECES_MAX` is merged, so that a reader who stands still
costs the text of his own sequence and nothing per token; the write deadline cuts him off. Log probabilities do cost per
token: of those a portion takes no more than fit a frame.
"""

from __future__ import annotations

import asyncio
import collections
from dataclasses import dataclass
from enum import Enum

from llorch.base.errors import LlorchError
from llorch.batching.detokenize import Piece
from llorch.batching.plan import Drawn
from llorch.batching.sequence import StopReason

PIECES_MAX = 256
LOGPROBS_A_PORTION_MAX = 256  # of 21 figures each: a quarter of the largest frame


@dataclass(frozen=True, slots=True)
class Ending:
    """How a sequence ended: a stop reason, or the error that replaces it."""

    stop_reason: StopReason | None
    error: LlorchError | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """What one step did to one sequence. `drawn` counts its new tokens, `tokens_out` all, `at` is monotonic.

    `logprobs` says how each id of `piece` was drawn, in their order; only when that was asked for.
    """

    outlet: Outlet
    piece: Piece | None
    drawn: int
    tokens_out: int
    at: float
    ending: Ending | None = None
    logprobs: tuple[Drawn, ...] = ()


@dataclass(frozen=True, slots=True)
class Portion:
    """What one frame says: text, the ids it comes from, and how each of them was drawn, if that was asked for."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[Drawn, ...] = ()

    def with_next(self, after: Portion) -> Portion:
        """Both as one."""
        return Portion(self.text + after.text, self.token_ids + after.token_ids, self.logprobs + after.logprobs)


class Taken(Enum):
    """What `Outlet.wait` saw."""

    SOMETHING = "something"
    NOTHING = "nothing"


class Outlet:
    """One live sequence as the loop sees it; `tokens_out` counts the resumed ids, too."""

    def __init__(self, job_id: str, accepted_at: float, resumed: int) -> None:
        self.job_id = job_id
        self.accepted_at = accepted_at
        self.prompt_tokens = 0
        self.seed = 0
        self.labels: tuple[str, ...] = ()  # the digests of its prompt's beginnings
        self.tokens_out = resumed
        self.tokens_sent = resumed
        self.first_token_at: float | None = None
        self.last_token_at: float | None = None
        self.drawn = 0
        self.ending: Ending | None = None
        self._portions: collections.deque[Portion] = collections.deque()
        self._compact_above = PIECES_MAX
        self._changed = asyncio.Event()

    @property
    def ttft_ms(self) -> int | None:
        """Milliseconds from acceptance to the first token drawn here; None before it."""
        return None if self.first_token_at is None else round((self.first_token_at - self.accepted_at) * 1000)

    @property
    def decode_s(self) -> float:
        """Seconds between the first and the last token drawn here."""
        if self.first_token_at is None or self.last_token_at is None:
            return 0.0
        return self.last_token_at - self.first_token_at

    @property
    def tokens_per_s(self) -> float:
        """Decode speed of this sequence: the first token belongs to the prefill."""
        return (self.drawn - 1) / self.decode_s if self.drawn > 1 and self.decode_s > 0 else 0.0

    def take_in(self, update: Update) -> None:
        """Enter an update; after an ending nothing is entered any more."""
        if self.ending is not None:
            return
        self.tokens_out = update.tokens_out
        if update.drawn:
            self.drawn += update.drawn
            self.first_token_at = update.at if self.first_token_at is None else self.first_token_at
            self.last_token_at = update.at
        if update.piece is not None:
            logprobs = update.logprobs
            if len(logprobs) > LOGPROBS_A_PORTION_MAX:  # tokens without text came in one piece: a frame has its limit
                logprobs = tuple(Drawn(one.token_id, one.logprob) for one in logprobs)
            self._append(Portion(update.piece.text, update.piece.token_ids, logprobs))
        self.ending = update.ending
        if update.piece is not None or update.ending is not None:
            self._changed.set()

    def end(self, ending: Ending) -> None:
        """End from the loop's side (cancel, deadline, shutdown): what was not taken yet is not sent any more."""
        if self.ending is None:
            self._portions.clear()
            self.tokens_out = self.tokens_sent
            self.ending = ending
            self._changed.set()

    def _append(self, portion: Portion) -> None:
        self._portions.append(portion)
        if len(self._portions) > self._compact_above:
            self._compact()

    def _compact(self) -> None:
        """Merge neighbours two by two, which halves the backlog: adding to one ever longer piece would cost its length
        for each token, and stop the loop that has to notice that nobody reads.
        """
        merged: list[Portion] = []
        is_pair = False
        for portion in self._portions:
            fits = merged and len(merged[-1].logprobs) + len(portion.logprobs) <= LOGPROBS_A_PORTION_MAX
            if fits and not is_pair:
                merged[-1] = merged[-1].with_next(portion)
                is_pair = True
            else:
                merged.append(portion)
                is_pair = False
        self._portions = collections.deque(merged)
        self._compact_above = max(PIECES_MAX, 2 * len(merged))

    async def wait(self, timeout_s: float) -> Taken:
        """Until there is a piece or the ending, at most `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return Taken.NOTHING
        return Taken.SOMETHING

    def take(self) -> list[Portion]:
        """All that waits; it counts as sent."""
        portions = list(self._portions)
        self._portions.clear()
        self._compact_above = PIECES_MAX
        self.tokens_sent += sum(len(portion.token_ids) for portion in portions)
        if self.ending is None:
            self._changed.clear()
        return portions
