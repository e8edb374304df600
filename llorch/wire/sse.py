"""Server-sent events: frames out, frames in. Frames carry one JSON object with "type"; see `spec/http.md`.

`FrameSplitter` cuts a byte stream into whole frames without parsing them (the relay's hot path);
`EventReader` also parses (clients). Ids are derived, never counted: queued 0, started 1, token i -> i + 2, the
terminal event last + 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llorch.base import json_text
from llorch.base.errors import InvalidRequest, WorkerError
from llorch.wire import strict_json
from llorch.wire.logprobs import read_logprobs

FRAME_SIZE_MAX = 1 << 20
PING = b": ping\n\n"
ID_QUEUED = 0
ID_STARTED = 1
ID_FIRST_TOKEN = 2
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}

_ENCODE = json_text.prepared(allow_nan=True)
# A quote inside a JSON string is always escaped, so these can only match real keys.
_TYPE = re.compile(rb'"type":\s*"([a-z_]+)"')
_INDEX = re.compile(rb'"i":\s*(\d+)')
_LIKELY = rb'"id":(?:0|[1-9]\d{0,8}),"logprob":-?(?:0|[1-9]\d{0,8})(?:\.\d{1,20})?(?:e-\d{1,2})?'
_TOP = rb"\[(?:\{" + _LIKELY + rb"\}(?:,\{" + _LIKELY + rb"\})*)?\]"
_LOGPROB = rb"\{" + _LIKELY + rb',"top":' + _TOP + rb"\}"
# A token frame as our workers write it: its JSON is sound without being parsed, if its bytes are UTF-8.
_PLAIN_TOKEN = re.compile(
    rb'data: \{"type":"token","t":"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt])*",'
    rb'"i":(0|[1-9]\d{0,8}),"ids":\[(?:\d{1,9}(?:,\d{1,9})*)?\]'
    rb'(?:,"logprobs":\[' + _LOGPROB + rb"(?:," + _LOGPROB + rb")*\])?\}\n\n"
)


class BadFrame(WorkerError):
    """The stream holds a frame that is too large or not JSON."""

    code = "INFERENCE_FAILED"


def encode(event: dict[str, Any], event_id: int | None = None) -> bytes:
    """One frame: optional `id:` line, `data:` with compact JSON, blank line."""
    data = b"data: " + _ENCODE(event).encode("utf-8") + b"\n\n"
    return data if event_id is None else b"id: %d\n" % event_id + data


def with_id(frame: bytes, event_id: int) -> bytes:
    """A frame read from a worker, with the derived id put in front."""
    return b"id: %d\n" % event_id + frame


def frame_type(frame: bytes) -> str | None:
    """The "type" of a frame without parsing its JSON; None for comments."""
    if not frame.startswith(b"data:"):
        return None
    match = _TYPE.search(frame)
    return match.group(1).decode("ascii") if match else None


def token_index(frame: bytes) -> int | None:
    """The "i" of a token frame without parsing its JSON."""
    match = _INDEX.search(frame)
    return int(match.group(1)) if match else None


def plain_index(frame: bytes) -> int | None:
    """The "i" of a token frame as our workers write it; None for every other frame, which has to be looked at."""
    match = _PLAIN_TOKEN.fullmatch(frame)
    return int(match[1]) if match else None


def payload(frame: bytes) -> dict[str, Any]:
    """The parsed JSON object of a frame (with or without `id:`). Raises BadFrame."""
    data = b"\n".join(line[5:].lstrip(b" ") for line in frame.split(b"\n") if line.startswith(b"data:"))
    try:
        return strict_json.parse_object(data)
    except InvalidRequest:
        raise BadFrame("the stream holds a frame that is not a sound JSON object") from None


def plain_token(frame: bytes, index: int) -> bytes:
    """The token frame `index` as we write it ourselves; parsed only if it looks unusual. Raises BadFrame."""
    if _PLAIN_TOKEN.fullmatch(frame):
        return sound(frame)
    event = payload(frame)
    if event.get("type") != "token" or not isinstance(event.get("t"), str) or event.get("i") != index:
        raise BadFrame("the stream holds a token frame without text or with two indexes")
    ids = event.get("ids")
    known = isinstance(ids, list) and all(type(item) is int and item >= 0 for item in ids)
    logprobs = [token.to_body() for token in read_logprobs(event.get("logprobs"))]
    kept = {"ids": ids} if known else {}
    return encode(
        {"type": "token", "t": event["t"], "i": index, **kept, **({"logprobs": logprobs} if logprobs else {})}
    )


def sound(frame: bytes) -> bytes:
    """A plain token frame, unless it is not UTF-8. Raises BadFrame."""
    try:
        frame.decode("utf-8")
    except UnicodeDecodeError:
        raise BadFrame("the stream holds a frame that is not UTF-8") from None
    return frame


class FrameSplitter:
    """Cuts bytes as they come into whole frames (each ends with a blank line, CRLF accepted)."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The frames completed by `data`, each normalised to end in `\\n\\n`. Raises BadFrame over 1 MiB."""
        rest = self._rest + data
        if b"\r" in rest:
            # A CR at the very end may be half of a CRLF: keep it until the next byte is known.
            held = b"\r" if rest.endswith(b"\r") else b""
            rest = rest[: len(rest) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n") + held
        *frames, self._rest = rest.split(b"\n\n")
        if len(self._rest) > FRAME_SIZE_MAX:
            raise BadFrame("the stream holds a frame of more than 1 MiB")
        return [frame.lstrip(b"\n") + b"\n\n" for frame in frames if frame.strip(b"\n")]

    @property
    def pending(self) -> bytes:
        """Bytes of a frame that is not complete yet."""
        return self._rest


@dataclass(frozen=True, slots=True)
class Event:
    """One parsed event and its id (None when the frame has none)."""

    id: int | None
    data: dict[str, Any]


class EventReader:
    """Bytes in, parsed events out; comments are skipped."""

    def __init__(self) -> None:
        self._splitter = FrameSplitter()

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events completed by `data`. Raises BadFrame."""
        for frame in self._splitter.feed(data):
            if b"data:" not in frame:
                continue
            event_id = None
            for line in frame.split(b"\n"):
                if line.startswith(b"id:") and line[3:].strip().isdigit():
                    event_id = int(line[3:])
            yield Event(event_id, payload(frame))
