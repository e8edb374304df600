"""Turns token ids into text piece by piece, so that no piece ends inside a character and no token is split.

Pure over `decode(ids) -> str`. A token decodes differently at the start of a text (SentencePiece drops a leading
space) and inside a character (bytes become U+FFFD), so a short window of earlier tokens is decoded along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Items
from dataclasses import dataclass

from llorch.batching.stop import StopMatcher

Decode = Callable[[list[int]], str]

REPLACEMENT = "\ufffd"
CHARACTER_BYTES_MAX = 4
WINDOW_TOKENS_MAX = 64


@dataclass(frozen=True, slots=True)
class Piece:
    """Text and exactly the token ids it comes from."""

    text: str
    token_ids: tuple[int, ...]


class Detokenizer:
    """`context` is the end of the prompt: decoded along with the first tokens, never part of a piece."""

    def __init__(self, decode: Decode, context: Items[int] = ()) -> None:
        self._decode = decode
        self._window = list(context)[-WINDOW_TOKENS_MAX:]
        self._window_text = decode(self._window)
        self._held: list[int] = []

    def feed(self, token_id: int) -> Piece | None:
        """The text that this token completes, if any."""
        self._held.append(token_id)
        text = self._decode(self._window + self._held)
        if not text.endswith(REPLACEMENT):
            return self._emit(len(self._held), text)
        return self._emit_settled(text)

    def flush(self) -> Piece | None:
        """What is still held back, as it is: the end of the text."""
        if not self._held:
            return None
        return self._emit(len(self._held), self._decode(self._window + self._held))

    def _emit_settled(self, text: str) -> Piece | None:
        """Held tokens that later ones cannot change any more: three tokens with bytes after them finish a character.

        Only bytes that are no UTF-8, or a genuine U+FFFD in the text, come here.
        """
        count = len(self._held)
        following = 0
        while count and following < CHARACTER_BYTES_MAX - 1:
            count -= 1
            following += bool(self._decode([self._held[count]]))
        if not count:
            return None
        settled = self._decode(self._window + self._held[:count])
        return self._emit(count, settled) if text.startswith(settled) else None

    def _emit(self, count: int, text: str) -> Piece:
        token_ids = tuple(self._held[:count])
        piece = Piece(text[len(self._window_text) :], token_ids)
        del self._held[:count]
        own_text = self._decode(list(token_ids))
        if own_text and not text.endswith(REPLACEMENT) and not own_text.startswith(REPLACEMENT):
            self._window, self._window_text = list(token_ids), own_text
        else:
            self._window = [*self._window, *token_ids]
            self._window_text = text
            if len(self._window) > WINDOW_TOKENS_MAX:
                self._window = self._window[-WINDOW_TOKENS_MAX // 2 :]
                self._window_text = self._decode(self._window)
        return piece


class TextStream:
    """The text of one sequence as it may be sent: complete characters, no part of a stop string, whole tokens.

    Each token id is in exactly one piece. Every piece has text, except perhaps the last: a stop string is not sent but
    its ids are, so that a resume after it meets it again.
    `resumed_ids` were sent by an earlier worker: they are matched against the stop strings but not sent again.
    """

    def __init__(
        self,
        decode: Decode,
        *,
        stop: tuple[str, ...] = (),
        context: Items[int] = (),
        resumed_ids: Items[int] = (),
    ) -> None:
        self._detokenizer = Detokenizer(decode, context)
        self._matcher = StopMatcher(stop)
        self._pending: list[Piece] = []
        self._received = 0
        for piece in [*map(self._detokenizer.feed, resumed_ids), self._detokenizer.flush()]:
            if piece is not None:
                self._matcher.feed(piece.text)
                self._received += len(piece.text)
        self._sent = self._received

    @property
    def stopped(self) -> bool:
        """True once a stop string is complete; nothing follows."""
        return self._matcher.stopped_at is not None

    def feed(self, token_ids: Iterable[int]) -> Piece | None:
        """The piece that may be sent after these tokens; None while everything is held back."""
        for token_id in token_ids:
            if not self.stopped:
                self._take(self._detokenizer.feed(token_id))
        return self._stop_piece() if self.stopped else self._release(self._matcher.safe)

    def flush(self) -> Piece | None:
        """The rest, when the sequence ends without a stop string (MAX_TOKENS, EOS); ids without text come too."""
        if not self.stopped:
            self._take(self._detokenizer.flush())
        return self._stop_piece() if self.stopped else self._merge(len(self._pending), self._received)

    def _take(self, piece: Piece | None) -> None:
        if piece is not None:
            self._pending.append(piece)
            self._received += len(piece.text)
            self._matcher.feed(piece.text)

    def _release(self, safe: int) -> Piece | None:
        """The longest run of pending pieces that ends at or before `safe`; kept while it has no text."""
        end = self._sent
        count = 0
        for piece in self._pending:
            if end + len(piece.text) > safe:
                break
            end += len(piece.text)
            count += 1
        if end == self._sent:
            return None
        return self._merge(count, end)

    def _stop_piece(self) -> Piece | None:
        """The text before the stop string with all ids up to its end."""
        at = self._matcher.stopped_at
        assert at is not None
        return self._merge(len(self._pending), max(at, self._sent))

    def _merge(self, count: int, end: int) -> Piece | None:
        """The first `count` pending pieces as one, their text cut at offset `end`."""
        if not count:
            return None
        text = "".join(piece.text for piece in self._pending[:count])[: end - self._sent]
        token_ids = tuple(token for piece in self._pending[:count] for token in piece.token_ids)
        del self._pending[:count]
        self._sent = end
        return Piece(text, token_ids)
