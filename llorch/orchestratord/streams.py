"""The live streams: what of a job has been relayed, who reads it, and how it ended.

A reader is a place in the job's segment. It takes what lies behind its place, at its own pace, so a slow client
costs one chunk of memory and never holds up the relay. One that has caught up and whose connection has sent everything
is handed new frames without being woken: that is the usual way of a token. Frames without an id (a repeated `queued`,
metrics, pings) go only to readers that have caught up, and are dropped otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from llorch.base.ids import JobId
from llorch.store.segments import Segment
from llorch.wire import events, sse

CHUNK_SIZE = 64 << 10
EXTRAS_MAX = 4
PING_AFTER_S = 15.0
WRITE_DEADLINE_S = 10.0


class JobStream:
    """One job's stream. `finish` sets the terminal frame; nothing is added after it.

    `decided`: the end is known. Usually it is told in the same moment, but see `hold`.
    """

    __slots__ = (
        "_eta_s",
        "_loading",
        "_queue_position",
        "decided",
        "finished",
        "job_id",
        "readers",
        "segment",
        "terminal",
    )

    def __init__(self, job_id: JobId, segment: Segment) -> None:
        self.job_id = job_id
        self.segment = segment
        self.readers: set[Reader] = set()
        self.terminal: bytes | None = None
        self.finished = asyncio.Event()
        self.decided = asyncio.Event()
        self._queue_position = 0
        self._eta_s: float | None = None
        self._loading = b""

    @property
    def terminal_id(self) -> int:
        """The id that the terminal event has, or would have now."""
        return self.segment.last_id + 1

    def queued_frame(self, event_id: int | None) -> bytes:
        """The `queued` event; only the first one of a stream has an id."""
        eta_ms = None if self._eta_s is None else round(self._eta_s * 1000)
        return sse.encode(events.queued(self.job_id, self._queue_position, eta_ms), event_id)

    def place(self, queue_position: int, eta_s: float | None) -> None:
        """The job's place in the queue, told to those who wait."""
        self._queue_position = queue_position
        self._eta_s = eta_s
        if self.readers and self.segment.last_id == 0:
            self.offer(self.queued_frame(None))

    def loading(self, model: str, progress: float, eta_s: float | None) -> None:
        """How far the job's model is loaded, told to those who wait and to those who come to wait."""
        eta_ms = None if eta_s is None else round(eta_s * 1000)
        self._loading = sse.encode(events.loading(model, progress, eta_ms), None)
        if self.readers and self.segment.last_id == 0:
            self.offer(self._loading)

    def opening(self) -> list[bytes]:
        """What a reader gets first who has seen nothing yet."""
        first = self.queued_frame(sse.ID_QUEUED)
        return [first, self._loading] if self._loading and self.segment.last_id == 0 else [first]

    def append(self, frames: bytes, last_id: int) -> None:
        """Frames with ids: into the segment first, then to the readers. Raises StorageUnavailable."""
        if self.terminal is not None:
            return
        offset = self.segment.size
        self.segment.append(frames, last_id)
        for reader in self.readers:
            reader.advance(offset, frames)

    def offer(self, frame: bytes) -> None:
        """A frame without an id: for those who have caught up."""
        for reader in self.readers:
            reader.offer(frame)

    def hold(self) -> None:
        """The job has ended, but its end cannot be stored yet, so nobody may be told."""
        self.decided.set()

    def finish(self, event: dict[str, object]) -> None:
        """Close the stream with its one terminal event."""
        self.terminal = sse.encode(event, self.terminal_id)
        self.finished.set()
        self.decided.set()
        for reader in self.readers:
            reader.wake()


class Reader:
    """One client's place in a stream: iterate over it for the pieces to send. `after` is its Last-Event-ID.

    `push`, where there is one, sends at once and returns True, or False when the connection has not sent all yet.
    """

    def __init__(self, stream: JobStream, after: int | None) -> None:
        self._stream = stream
        self._after = -1 if after is None else after
        # The client may have seen more than the segment holds: it lost its tail with the power.
        self._ahead = self._after > stream.segment.last_id
        self._offset = stream.segment.offset_after(self._after)
        self._extras = stream.opening() if after is None else []
        self._wake = asyncio.Event()
        self._idle = False
        self._done = False
        self.last_write_at = 0.0
        self.write_began_at: float | None = None
        self.cut: Callable[[], None] = lambda: None
        self.push: Callable[[bytes], bool] | None = None

    def __enter__(self) -> Reader:
        self._stream.readers.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.readers.discard(self)
        if not self._stream.readers and self._stream.finished.is_set():
            self._stream.segment.release()

    def wake(self) -> None:
        """There is something new to read."""
        self._wake.set()

    def advance(self, offset: int, frames: bytes) -> None:
        """These frames have come, at this place: send them now if nothing else is to be sent, else wake up."""
        ready = self._idle and self._offset == offset and not (self._ahead or self._wake.is_set())
        if ready and self.push is not None and self.push(frames):
            self._offset += len(frames)
        else:
            self._wake.set()

    def offer(self, frame: bytes) -> None:
        """Take a frame without an id, if this reader stands at the end of what there is."""
        caught_up = self._ahead or self._offset == self._stream.segment.size
        if caught_up and len(self._extras) < EXTRAS_MAX:
            self._extras.append(frame)
            self._wake.set()

    def tick(self, now: float) -> None:
        """Once a second: ping an idle client, cut one that does not read."""
        if self.write_began_at is not None:
            if now - self.write_began_at > WRITE_DEADLINE_S:
                self.cut()
        elif now - self.last_write_at > PING_AFTER_S:
            self.offer(sse.PING)

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> bytes:
        while not self._done:
            if piece := self._next_piece():
                return piece
            if not self._done:
                self._idle = True
                await self._wake.wait()
                self._idle = False
                self._wake.clear()
        raise StopAsyncIteration

    def _next_piece(self) -> bytes:
        """What can be sent now; empty when there is nothing, and `_done` after the last piece."""
        if self._extras:
            piece = b"".join(self._extras)
            self._extras.clear()
            return piece
        segment = self._stream.segment
        if self._ahead and self._after <= segment.last_id:
            self._ahead = False
            self._offset = segment.offset_after(self._after)
        if not self._ahead and self._offset < segment.size:
            piece = segment.read(self._offset, CHUNK_SIZE)
            self._offset += len(piece)
            return piece
        if self._stream.terminal is None:
            return b""
        self._done = True
        return self._stream.terminal if self._stream.terminal_id > self._after else b""


class Streams:
    """The streams of all live jobs, and every reader that is attached, also to a job that has ended."""

    def __init__(self) -> None:
        self._live: dict[JobId, JobStream] = {}
        self.attached: set[Reader] = set()

    def __iter__(self) -> Iterator[JobStream]:
        return iter(self._live.values())

    def __len__(self) -> int:
        return len(self._live)

    def add(self, stream: JobStream) -> None:
        """A job begins its life."""
        self._live[stream.job_id] = stream

    def get(self, job_id: str) -> JobStream | None:
        """The stream of a live job."""
        return self._live.get(JobId(job_id))

    def drop(self, job_id: JobId) -> None:
        """The job is over, or was never accepted; readers that are attached read on to the end."""
        if (stream := self._live.pop(job_id, None)) is not None and not stream.readers:
            stream.segment.release()

    def tick(self, now: float) -> None:
        """Once a second, see Reader.tick."""
        for reader in tuple(self.attached):
            reader.tick(now)
