"""Frames in and out: the splitter equals a dumb reference however the bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llorch.wire import events, sse
from llorch.wire.logprobs import Likely, TokenLogprob, read_logprobs

some_events = st.lists(
    st.builds(events.token, st.text(max_size=20), st.integers(0, 10**6), st.lists(st.integers(0, 10**5), max_size=3)),
    max_size=6,
)


@given(some_events, st.data())
def test_frames_survive_any_cut(items: list[dict[str, object]], data: st.DataObject) -> None:
    """Frames fed in any pieces come out whole, in order, with type and index readable without parsing."""
    stream = b"".join(sse.encode(item) for item in items)
    splitter = sse.FrameSplitter()
    frames: list[bytes] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        frames += splitter.feed(stream[:size])
        stream = stream[size:]
    assert [sse.payload(frame) for frame in frames] == items
    assert [sse.frame_type(frame) for frame in frames] == ["token"] * len(items)
    assert [sse.token_index(frame) for frame in frames] == [item["i"] for item in items]
    assert splitter.pending == b""


@given(some_events)
def test_crlf_and_ids_byte_by_byte(items: list[dict[str, object]]) -> None:
    """CRLF streams fed byte by byte give the same events, with their ids."""
    stream = b"".join(sse.PING + sse.encode(item, number) for number, item in enumerate(items))
    reader = sse.EventReader()
    read = [event for byte in stream.replace(b"\n", b"\r\n") for event in reader.feed(bytes([byte]))]
    assert [event.data for event in read] == items
    assert [event.id for event in read] == list(range(len(items)))


def test_a_quoted_index_is_not_an_index() -> None:
    """Text that looks like a key cannot forge the index or the type."""
    frame = sse.encode(events.token('"i":7,"type":"end"', 3, [1]))
    assert sse.token_index(frame) == 3
    assert sse.frame_type(frame) == "token"


def test_with_id_is_what_encode_writes() -> None:
    """Putting the id in front of a worker's frame gives the frame that encode would have written."""
    item = events.token("é\n", 5, [9])
    assert sse.with_id(sse.encode(item), 7) == sse.encode(item, 7)


def test_endless_frame_is_refused() -> None:
    """A frame that never ends is refused after 1 MiB instead of filling the memory."""
    splitter = sse.FrameSplitter()
    with pytest.raises(sse.BadFrame):
        for _ in range(40):
            splitter.feed(b"x" * 65536)


@pytest.mark.parametrize(
    "frame",
    [
        b"data: {\n\n",
        b"data: 3\n\n",
        b"data: \xff\n\n",
        b'data: {"message":"\\ud800"}\n\n',
        b'data: {"a":1,"a":2}\n\n',
        b'data: {"a":NaN}\n\n',
    ],
)
def test_bad_payload_is_bad_frame(frame: bytes) -> None:
    """A frame that is not a sound JSON object is BadFrame, never another error."""
    with pytest.raises(sse.BadFrame):
        sse.payload(frame)


@given(st.text(max_size=20), st.integers(0, 10**6), st.lists(st.integers(0, 10**5), max_size=3))
def test_a_token_as_we_write_it_stays_as_it_is(text: str, index: int, ids: list[int]) -> None:
    """What our workers send is passed on byte for byte, whatever the text."""
    frame = sse.encode(events.token(text, index, ids))
    assert sse.plain_token(frame, index) == frame


LOGPROBS = st.floats(max_value=0.0, allow_nan=False) | st.sampled_from([0.0, -1e-6, -1.5e-5, -1e-7])
LIKELY = st.builds(Likely, st.integers(0, 10**6), LOGPROBS)
TOKENS = st.builds(TokenLogprob, st.integers(0, 10**6), LOGPROBS, st.lists(LIKELY, max_size=3).map(tuple))


@given(st.lists(TOKENS, min_size=1, max_size=3))
def test_log_probabilities_pass_as_they_are(tokens: list[TokenLogprob]) -> None:
    """Frames with log probabilities need no parsing either, and read back they are the rounded ones."""
    frame = sse.encode(events.token("a", 4, [1], tokens))
    assert sse._PLAIN_TOKEN.fullmatch(frame) and sse.plain_token(frame, 4) == frame
    read = read_logprobs(sse.payload(frame)["logprobs"])
    assert [token.to_body() for token in read] == [token.to_body() for token in tokens]


def test_log_probabilities_of_another_maker_are_written_anew() -> None:
    """What has our form is kept whatever its spacing; anything else is dropped and the text stays."""
    start = b'data: {"type":"token","t":"a","i":4,"ids":[7],"logprobs": '
    good = start + b'[{"id": 7, "logprob": -1, "top": [], "x": 1}]}\n\n'
    assert sse.plain_token(good, 4) == sse.encode(events.token("a", 4, [7], [TokenLogprob(7, -1.0)]))
    for bad in (
        b'"x"',
        b"[3]",
        b'[{"id":7,"logprob":-1}]',
        b'[{"id":-7,"logprob":-1,"top":[]}]',
        b'[{"id":7,"logprob":true,"top":[]}]',
        b'[{"id":7,"logprob":-1' + b"0" * 300 + b',"top":[]}]',
        b'[{"id":7,"logprob":-1,"top":[{"id":1}]}]',
        b'[{"id":7,"logprob":-1,"top":[' + b",".join([b'{"id":1,"logprob":-1}'] * 21) + b"]}]",
    ):
        assert sse.plain_token(start + bad + b"}\n\n", 4) == sse.encode(events.token("a", 4, [7])), bad


def test_an_unusual_token_is_written_anew() -> None:
    """Spaces, further lines and unknown fields of another maker's worker do not reach segments and clients."""
    frame = b'event: x\ndata: {"type": "token", "i": 4,\ndata: "t": "a\\u0041", "ids": [7], "more": {}}\n\n'
    assert sse.plain_token(frame, 4) == sse.encode(events.token("aA", 4, [7]))
    without_ids = b'data: {"type":"token","t":"a","i":4,"ids":["x"]}\n\n'
    assert sse.plain_token(without_ids, 4) == sse.encode({"type": "token", "t": "a", "i": 4})


@pytest.mark.parametrize(
    "frame",
    [
        b'data: {"type":"token","t":"\\ud800","i":4,"ids":[]}\n\n',
        b'data: {"type":"token","t":"\xff","i":4,"ids":[]}\n\n',
        b'data: {"type":"token","t":"a","i":4,broken\n\n',
        b'data: {"type":"token","t":1,"i":4}\n\n',
        b'data: {"type":"token","t":"a","x":{"i":4},"i":5}\n\n',
    ],
)
def test_a_broken_token_is_bad_frame(frame: bytes) -> None:
    """A token that nobody could read later goes no further."""
    with pytest.raises(sse.BadFrame):
        sse.plain_token(frame, 4)
