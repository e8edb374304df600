"""Text streams: no split characters, no split tokens, no part of a stop string, the same text however it was cut."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from llorch.batching.detokenize import Detokenizer, Piece, TextStream
from llorch.batching.stop import StopMatcher

STORY = "a naïve fox: 你好 😀!"
TEXTS = st.text(alphabet="ab😀é你�c ", max_size=20)
STOPS = st.lists(st.text(alphabet="abc😀", min_size=1, max_size=4), max_size=3).map(tuple)


class ByteVocabulary:
    """A byte-level vocabulary: each token is a few bytes, and some are control tokens without text."""

    def __init__(self, tokens: list[bytes]) -> None:
        self._tokens = tokens

    def decode(self, ids: list[int]) -> str:
        return b"".join(self._tokens[i] for i in ids).decode("utf-8", "replace")


class SpacedVocabulary(ByteVocabulary):
    """As SentencePiece decodes: the space that begins a text is dropped."""

    def decode(self, ids: list[int]) -> str:
        return super().decode(ids).removeprefix(" ")


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted({at % (len(data) + 1) for at in cuts}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


def pieces_of(stream: Detokenizer, ids: list[int]) -> list[Piece]:
    return [piece for piece in [*map(stream.feed, ids), stream.flush()] if piece is not None]


def run(stream: TextStream, ids: list[int]) -> list[Piece]:
    found = [stream.feed([token]) for token in ids]
    return [piece for piece in [*found, stream.flush()] if piece is not None]


@given(TEXTS.map(str.encode) | st.binary(max_size=12), st.lists(st.integers(0, 99), max_size=12))
def test_pieces_join_to_the_whole_text(data: bytes, cuts: list[int]) -> None:
    """Whatever bytes the tokens are made of, pieces joined are decode(all), and their ids are all ids in order."""
    vocabulary = ByteVocabulary(cut(data, cuts))
    ids = list(range(len(cut(data, cuts))))
    pieces = pieces_of(Detokenizer(vocabulary.decode), ids)
    assert "".join(piece.text for piece in pieces) == vocabulary.decode(ids)
    assert [token for piece in pieces for token in piece.token_ids] == ids


@given(TEXTS, st.lists(st.integers(0, 99), max_size=12), st.sets(st.integers(0, 20)))
def test_text_survives_control_tokens_and_leading_spaces(text: str, cuts: list[int], control: set[int]) -> None:
    """Control tokens without text, and a decoder that drops the leading space, change nothing inside the text."""
    tokens = cut(text.encode(), cuts)
    for at in sorted(control):
        tokens.insert(at, b"")
    vocabulary = SpacedVocabulary(tokens)
    pieces = pieces_of(Detokenizer(vocabulary.decode), list(range(len(tokens))))
    assert "".join(piece.text for piece in pieces) == vocabulary.decode(list(range(len(tokens))))


@given(st.text(alphabet="ab😀é你 ", max_size=20))
def test_no_piece_ends_inside_a_character(text: str) -> None:
    """Fed byte by byte, each piece is a complete character, sent with its last byte."""
    data = text.encode()
    vocabulary = ByteVocabulary([bytes([byte]) for byte in data])
    pieces = pieces_of(Detokenizer(vocabulary.decode), list(range(len(data))))
    assert [piece.text for piece in pieces] == list(text)


def test_the_prompt_decides_about_a_leading_space() -> None:
    """With the prompt's end as context, the first word of the answer keeps its space."""
    vocabulary = SpacedVocabulary([b"Once", b" upon", b" a"])
    assert [piece.text for piece in pieces_of(Detokenizer(vocabulary.decode, [0]), [1, 2])] == [" upon", " a"]


def dumb_stop(text: str, stop: tuple[str, ...]) -> str:
    """The text before the stop string that ends first, of those the longest."""
    found = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    return text[: min(found)[1]] if found else text


@given(st.text(alphabet="abc", max_size=30), STOPS, st.lists(st.integers(0, 99), max_size=12))
def test_matcher_equals_find(text: str, stop: tuple[str, ...], cuts: list[int]) -> None:
    """However the text is cut, the matcher stops where `str.find` does; what is not yet safe may still match."""
    matcher = StopMatcher(stop)
    fed = ""
    for part in cut(text.encode(), cuts):
        matcher.feed(part.decode())
        fed += part.decode()
        expected = dumb_stop(fed, stop)
        assert (matcher.stopped_at is not None) == (expected != fed or any(s in fed for s in stop))
        if matcher.stopped_at is not None:
            assert fed[: matcher.stopped_at] == expected
            return
        held = fed[matcher.safe :]
        assert held == max((s[:n] for s in stop for n in range(len(s)) if fed.endswith(s[:n])), key=len, default="")


@given(TEXTS, STOPS, st.lists(st.integers(0, 99), max_size=12), st.integers(0, 12))
def test_stream_text_and_resume(text: str, stop: tuple[str, ...], cuts: list[int], relayed: int) -> None:
    """The sent text is the text before the stop string; cut after any frame and resumed elsewhere it is the same."""
    tokens = cut(text.encode(), cuts)
    vocabulary = ByteVocabulary(tokens)
    ids = list(range(len(tokens)))
    frames = run(TextStream(vocabulary.decode, stop=stop), ids)
    sent = "".join(frame.text for frame in frames)
    assert sent == dumb_stop(vocabulary.decode(ids), stop)
    assert all(frame.text for frame in frames[:-1])
    assert all(frame.token_ids for frame in frames)
    relayed_ids = [token for frame in frames for token in frame.token_ids]
    assert relayed_ids == ids[: len(relayed_ids)]
    assert relayed_ids == ids or any(string in vocabulary.decode(relayed_ids) for string in stop)
    before = frames[:relayed]
    resumed = [token for frame in before for token in frame.token_ids]
    assert resumed == ids[: len(resumed)]
    second = TextStream(vocabulary.decode, stop=stop, resumed_ids=resumed)
    rest = [] if second.stopped else run(second, ids[len(resumed) :])
    assert "".join(frame.text for frame in [*before, *rest]) == sent


def test_a_held_back_token_goes_whole_into_the_next_frame() -> None:
    """'hello c' is held from its last token on while 'cd' may follow; then one frame brings all held tokens."""
    vocabulary = ByteVocabulary([b"hello", b" c", b"x", b"ab c", b"d!"])
    stream = TextStream(vocabulary.decode, stop=("cd",))
    assert stream.feed([0]) == Piece("hello", (0,))
    assert stream.feed([1]) is None
    assert stream.feed([2]) == Piece(" cx", (1, 2))
    assert stream.feed([3]) is None
    assert stream.feed([4]) == Piece("ab ", (3, 4))
    assert stream.stopped
    assert stream.flush() is None


def test_a_last_token_without_text_is_relayed() -> None:
    """Ids and tokens_out agree at the end: a control token drawn last comes with an empty text."""
    vocabulary = ByteVocabulary([b"a", b""])
    stream = TextStream(vocabulary.decode)
    assert stream.feed([0]) == Piece("a", (0,))
    assert stream.feed([1]) is None
    assert stream.flush() == Piece("", (1,))
    assert stream.flush() is None


def test_several_tokens_in_one_step() -> None:
    """Tokens accepted together give one frame; those after the stop string are ignored."""
    vocabulary = ByteVocabulary([b"a", b"b", b"STOP", b"c"])
    stream = TextStream(vocabulary.decode, stop=("STOP",))
    assert stream.feed([0, 1, 2, 3]) == Piece("ab", (0, 1, 2))
    assert stream.stopped


def test_a_stop_string_across_the_resume_is_found() -> None:
    """A stop string that began in text sent by the earlier worker stops the stream and sends no more text."""
    vocabulary = ByteVocabulary([b"one ST", b"OP two"])
    stream = TextStream(vocabulary.decode, stop=("STOP",), resumed_ids=[0])
    assert not stream.stopped
    assert stream.feed([1]) == Piece("", (1,))
    assert stream.stopped
    assert stream.flush() is None
