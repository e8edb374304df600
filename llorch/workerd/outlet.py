"""The event loop's end of one sequence: the step thread's pieces wait here until the HTTP handler takes them.

Loss-free and bounded: a backlog past `PIECES_MAX` is merged into its last piece, so that a reader who stands still
costs the text of his own sequence and nothing per token; the write deadline cuts him off.
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


@dataclass(frozen=True, slots=True)
class Ending:
    """How a sequence ended: a stop reason, or the error that replaces it."""

    stop_reason: StopReason | None
    error: LlorchError | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """What one step did to one sequence. `drawn` counts its new tokens, `tokens_out` all, `at` is monotonic.

    `drawn_tokens` are the piece's ids, one for one, with their logprobs; empty unless logprobs were asked for.
    """

    outlet: Outlet
    piece: Piece | None
    drawn: int
    tokens_out: int
    at: float
    ending: Ending | None = None
    drawn_tokens: tuple[Drawn, ...] = ()


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
        self.tokens_out = resumed
        self.tokens_sent = resumed
        self.first_token_at: float | None = None
        self.last_token_at: float | None = None
        self.drawn = 0
        self.ending: Ending | None = None
        self._pieces: collections.deque[Piece] = collections.deque()
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
            self._append(update.piece)
        self.ending = update.ending
        if update.piece is not None or update.ending is not None:
            self._changed.set()

    def end(self, ending: Ending) -> None:
        """End from the loop's side (cancel, deadline, shutdown): what was not taken yet is not sent any more."""
        if self.ending is None:
            self._pieces.clear()
            self.tokens_out = self.tokens_sent
            self.ending = ending
            self._changed.set()

    def _append(self, piece: Piece) -> None:
        if len(self._pieces) >= PIECES_MAX:
            last = self._pieces.pop()
            piece = Piece(last.text + piece.text, last.token_ids + piece.token_ids)
        self._pieces.append(piece)

    async def wait(self, timeout_s: float) -> Taken:
        """Until there is a piece or the ending, at most `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return Taken.NOTHING
        return Taken.SOMETHING

    def take(self) -> list[Piece]:
        """All pieces that wait; they count as sent."""
        pieces = list(self._pieces)
        self._pieces.clear()
        self.tokens_sent += sum(len(piece.token_ids) for piece in pieces)
        if self.ending is None:
            self._changed.clear()
        return pieces
