"""One attempt's frames on their way from the worker to the job's stream.

Tokens are not parsed: a frame is cut out, its form and index checked, its derived id put in front. The worker's own
terminal event stops here; the job's is made by the driver after the commit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llorch.base.errors import InferenceFailed
from llorch.core.job import Failure, FailureKind, Result
from llorch.orchestratord.streams import JobStream
from llorch.wire import events, sse

COUNT_MAX = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Started:
    """The worker took the job."""


@dataclass(frozen=True, slots=True)
class FirstToken:
    """The attempt's first token frame went by."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The worker sent `end`."""

    result: Result


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker sent `error`, or something that is not a stream of ours."""

    failure: Failure


Signal = Started | FirstToken | Ended | Failed


class Relay:
    """Feed the worker's bytes; take the signals that the brain must hear of."""

    def __init__(self, stream: JobStream, describe_start: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """`describe_start` makes the job's `started` event from the worker's."""
        self._stream = stream
        self._describe_start = describe_start
        self._splitter = sse.FrameSplitter()
        self._out: list[bytes] = []
        self._next_i = stream.segment.frames
        self._first_token = True
        self.frames = 0
        self.muted = False

    def mute(self) -> None:
        """The job is being cancelled: no further token leaves, only the worker's end matters."""
        self.muted = True

    def feed(self, data: bytes) -> list[Signal]:
        """Relay the frames completed by `data`. Raises BadFrame, StorageUnavailable."""
        signals: list[Signal] = []
        for frame in self._splitter.feed(data):
            plain = sse.plain_index(frame)
            kind = "token" if plain is not None else sse.frame_type(frame)
            if kind == "token":
                self._token(frame, plain, signals)
            elif kind == "metrics":
                self._flush()
                if not self.muted:
                    self._stream.offer(frame)
            elif kind == "started":
                self._start(sse.payload(frame))
                signals.append(Started())
            elif kind in ("end", "error"):
                self._flush()
                event = sse.payload(frame)
                signals.append(Ended(_result(event)) if kind == "end" else Failed(_failure(event)))
                return signals
        self._flush()
        return signals

    def _start(self, event: dict[str, Any]) -> None:
        if self._stream.segment.last_id == 0 and not self.muted:
            self._stream.append(sse.encode(self._describe_start(event), sse.ID_STARTED), sse.ID_STARTED)

    def _token(self, frame: bytes, plain: int | None, signals: list[Signal]) -> None:
        if self.muted:
            return
        index = sse.token_index(frame) if plain is None else plain
        if index is not None and index < self._next_i:
            return  # a repeat: the client has it
        if index != self._next_i:
            self._flush()
            raise sse.BadFrame(f"the worker skipped from piece {self._next_i} to {index}")
        frame = sse.plain_token(frame, index) if plain is None else sse.sound(frame)
        if self._stream.segment.last_id == 0:
            self._start({})
        if self._first_token:
            self._first_token = False
            signals.append(FirstToken())
        self._out.append(sse.with_id(frame, index + sse.ID_FIRST_TOKEN))
        self._next_i += 1

    def _flush(self) -> None:
        if self._out:
            frames, self._out = self._out, []
            self.frames += len(frames)
            self._stream.append(b"".join(frames), self._next_i - 1 + sse.ID_FIRST_TOKEN)


def _count(event: dict[str, Any], name: str) -> int | None:
    """A whole number of a worker's event; None for anything that is not a sane one."""
    value = event.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= COUNT_MAX:
        return None
    return int(value)


def _result(event: dict[str, Any]) -> Result:
    return Result(
        stop_reason=str(event.get("stop_reason", "EOS"))[:32],
        tokens_out=_count(event, "tokens_out") or 0,
        prompt_tokens=_count(event, "prompt_tokens"),
        decode_time_ms=_count(event, "decode_time_ms") or 0,
        ttft_ms=_count(event, "ttft_ms"),
        seed=_count(event, "seed"),
    )


def _failure(event: dict[str, Any]) -> Failure:
    wait_ms = _count(event, "retry_after_ms")
    return Failure(
        FailureKind.FAILED,
        events.error_code(event.get("code")) or InferenceFailed.code,
        str(event.get("message", "the worker failed"))[:500],
        None if wait_ms is None else wait_ms / 1000,
    )
