"""The relay and the readers, without sockets: whatever a worker sends, clients get frames 0..n once and in order."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llorch.base.errors import LlorchError
from llorch.base.ids import JobId
from llorch.orchestratord.relay import Ended, Failed, FirstToken, Relay, Started
from llorch.orchestratord.streams import JobStream, Reader, Streams
from llorch.store.segments import Segments
from llorch.wire import events, sse
from llorch.wire.sse import EventReader


@pytest.fixture
def stream(tmp_path: Path) -> JobStream:
    """A stream with an empty segment."""
    return make_stream(tmp_path)


def make_stream(folder: Path) -> JobStream:
    """A stream with an empty segment in a fresh folder."""
    return JobStream(JobId("job-1"), Segments(Path(tempfile.mkdtemp(dir=folder))).create(JobId("job-1")))


def relay_to(stream: JobStream) -> Relay:
    """A relay as an attempt has it."""
    return Relay(stream, lambda event: {"type": "started", "job_id": "job-1", "worker_id": "w"})


def ids_in(data: bytes) -> list[int]:
    """The ids of all frames."""
    return [event.id for event in EventReader().feed(data) if event.id is not None]


def test_signals_come_once_and_in_order(stream: JobStream) -> None:
    """started, first token, end: each is told once per attempt; the worker's terminal event is not relayed."""
    relay = relay_to(stream)
    frames = [
        events.started("x", "m", "t"),
        *(events.token("a", n, [n]) for n in range(3)),
        events.end(events.StopReason.EOS, tokens_out=3, decode_time_ms=1, prompt_tokens=1, ttft_ms=1, seed=1),
        events.token("late", 3, [3]),
    ]
    signals = relay.feed(b"".join(sse.encode(frame) for frame in frames))
    assert [type(signal) for signal in signals] == [Started, FirstToken, Ended]
    assert ids_in(stream.segment.read_all()) == [1, 2, 3, 4]
    assert b"end" not in stream.segment.read_all()


def test_a_muted_relay_lets_nothing_out(stream: JobStream) -> None:
    """After a cancel no token follows, but the worker's end is still heard."""
    relay = relay_to(stream)
    relay.feed(sse.encode(events.started("x", "m", "t")) + sse.encode(events.token("a", 0, [0])))
    before = stream.segment.read_all()
    relay.mute()
    end = events.end(events.StopReason.CANCELLED, tokens_out=2, decode_time_ms=1, prompt_tokens=1, ttft_ms=1, seed=1)
    (signal,) = relay.feed(sse.encode(events.token("b", 1, [1])) + sse.encode(end))
    assert isinstance(signal, Ended) and signal.result.stop_reason == "CANCELLED"
    assert stream.segment.read_all() == before


EVENTS = st.one_of(
    st.builds(lambda i, t: {"type": "token", "t": t, "i": i, "ids": [i]}, st.integers(-2, 6), st.text(max_size=4)),
    st.just({"type": "started", "model": "m"}),
    st.just({"type": "metrics", "tokens_out": 1}),
    st.builds(
        lambda n: {"type": "end", "tokens_out": n, "ttft_ms": n, "seed": n},
        st.one_of(st.floats(), st.integers(), st.booleans(), st.none(), st.text(max_size=3)),
    ),
    st.builds(
        lambda n: {"type": "error", "code": n, "message": n, "retry_after_ms": n},
        st.one_of(st.floats(), st.integers(), st.none(), st.text(max_size=3)),
    ),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.one_of(EVENTS, st.binary(max_size=12)), max_size=12), st.integers(1, 40))
def test_whatever_a_worker_sends(sent: list[Any], cut: int) -> None:
    """Any bytes in any slices: a signal or one of our errors, and the segment counts 1..n without a gap."""
    with tempfile.TemporaryDirectory() as folder:
        stream = make_stream(Path(folder))
        relay = relay_to(stream)
        data = b"".join(item if isinstance(item, bytes) else sse.encode(item) for item in sent)
        try:
            for start in range(0, len(data), cut):
                for signal in relay.feed(data[start : start + cut]):
                    if isinstance(signal, Failed) and signal.failure.retry_after_s is not None:
                        assert 0 <= signal.failure.retry_after_s < 1e20
        except (LlorchError, ValueError):
            pass
        found = ids_in(stream.segment.read_all())
        assert found == list(range(1, len(found) + 1))


def test_a_workers_error_is_read_strictly(stream: JobStream) -> None:
    """A code that is none becomes INFERENCE_FAILED; text that cannot be stored is no event at all."""
    (signal,) = relay_to(stream).feed(sse.encode(events.error("no such\ncode", "why", retriable=False)))
    assert isinstance(signal, Failed)
    assert (signal.failure.code, signal.failure.message) == ("INFERENCE_FAILED", "why")
    with pytest.raises(sse.BadFrame):
        relay_to(stream).feed(b'data: {"type":"error","code":"X","message":"\\ud800"}\n\n')


def drain(reader: Reader) -> bytes:
    """Everything a reader gets until its stream's end."""

    async def collect() -> bytes:
        return b"".join([piece async for piece in reader])

    return asyncio.run(collect())


def steps(stream: JobStream, count: int) -> Iterator[None]:
    """Append frame by frame, with a metrics frame after each."""
    stream.append(sse.encode(events.started("job-1", "m", "t"), 1), 1)
    yield
    for index in range(count):
        stream.append(sse.encode(events.token("a", index, [index]), index + 2), index + 2)
        stream.offer(sse.encode(events.metrics(index, 1, 1.0, 1)))
        yield


@pytest.mark.parametrize("join_at", range(6))
@pytest.mark.parametrize("after", [None, 0, 1, 3, 5, 6, 9])
def test_a_reader_joins_at_any_time(tmp_path: Path, join_at: int, after: int | None) -> None:
    """Wherever the job is and whatever the client has: exactly the frames behind Last-Event-ID, then the end."""
    stream = make_stream(tmp_path)
    reader: Reader | None = None
    for number, _ in enumerate(steps(stream, 4)):
        if number == join_at:
            reader = Reader(stream, after)
    reader = reader or Reader(stream, after)
    stream.finish({"type": "end"})
    assert ids_in(drain(reader)) == list(range(0 if after is None else after + 1, 7))


def test_frames_without_id_wait_for_nobody(stream: JobStream) -> None:
    """A reader that lags gets no metrics; what piles up for it is bounded."""
    lagging = Reader(stream, None)
    with lagging:
        for _ in steps(stream, 50):
            pass
        for _ in range(100):
            stream.offer(sse.PING)
        stream.finish({"type": "end"})
        data = drain(lagging)
    assert data.count(b"metrics") <= 4 and data.count(b": ping") == 0
    assert ids_in(data) == list(range(53))


def test_idle_readers_are_pinged_and_stalled_ones_cut(stream: JobStream) -> None:
    """A ping after 15 s of silence; a write that takes more than 10 s is cut."""
    streams = Streams()
    reader = Reader(stream, 5)
    cut: list[bool] = []
    reader.cut = lambda: cut.append(True)
    streams.attached.add(reader)
    with reader:
        streams.tick(14.0)
        streams.tick(16.0)
        stream.finish({"type": "end"})
        assert drain(reader) == sse.PING
    reader.write_began_at = 20.0
    streams.tick(29.0)
    assert not cut
    streams.tick(31.0)
    assert cut


@settings(max_examples=100, deadline=None)
@given(
    accepts=st.lists(st.booleans(), min_size=12, max_size=12), waits=st.lists(st.booleans(), min_size=12, max_size=12)
)
def test_pushed_or_read_every_frame_goes_out_once(accepts: list[bool], waits: list[bool]) -> None:
    """Whether its connection takes a frame at once or the reader has to come for it: all frames, in order, once."""

    async def run(folder: Path) -> bytes:
        stream, out = make_stream(folder), bytearray()
        reader, answers = Reader(stream, -1), iter(accepts)

        def push(frames: bytes) -> bool:
            if not next(answers):
                return False
            out.extend(frames)
            return True

        async def read() -> None:
            with reader:
                async for piece in reader:
                    out.extend(piece)

        reader.push = push
        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            relay = relay_to(stream)
            for index, wait in enumerate(waits):
                relay.feed(sse.encode(events.token("a", index, [index])))
                for _ in range(3 if wait else 0):
                    await asyncio.sleep(0)
            stream.finish(events.error("INFERENCE_FAILED", "over", retriable=False))
        return bytes(out)

    with tempfile.TemporaryDirectory() as folder:
        assert ids_in(asyncio.run(run(Path(folder)))) == list(range(1, len(waits) + 3))


def test_a_frame_without_id_is_not_overtaken(stream: JobStream) -> None:
    """What a reader still has to send goes first, even when its connection would take the newest frame at once."""

    async def run() -> bytes:
        out = bytearray()
        reader = Reader(stream, None)
        reader.push = lambda frames: bool(out.extend(frames)) or True

        async def read() -> None:
            with reader:
                async for piece in reader:
                    out.extend(piece)

        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            await asyncio.sleep(0)
            stream.offer(sse.PING)
            relay_to(stream).feed(sse.encode(events.token("a", 0, [0])))
            stream.finish(events.error("INFERENCE_FAILED", "over", retriable=False))
        return bytes(out)

    out = asyncio.run(run())
    assert ids_in(out) == [0, 1, 2, 3] and out.index(sse.PING) < out.index(b"id: 1\n")
