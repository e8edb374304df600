"""A scripted orchestratord on loopback: it keeps one job's frames and serves them as the contract says, with faults."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from llorch.wire import events, sse

JOB = "job-11111111-2222-4333-8444-555555555555"
TEXT = ["Once", " upon", " a", " time", " — ", "naïve", " 🦙", "."]


def frames() -> list[tuple[int | None, bytes]]:
    """(id, bytes) of an undisturbed orchestrator stream."""
    made: list[tuple[int | None, bytes]] = [(0, sse.encode(events.queued(JOB, 0, None), 0))]
    started = events.started(JOB, "demo", "2026-01-01T00:00:00.000Z") | {
        "worker_id": "worker-cpu-1",
        "queue_wait_ms": 3,
    }
    made.append((1, sse.encode(started, 1)))
    for i, text in enumerate(TEXT):
        made.append((i + 2, sse.encode(events.token(text, i, [i]), i + 2)))
        if i == 3:
            made.append((None, sse.encode(events.metrics(4, 10, 400.0, 1))))
            made.append((None, sse.PING))
    end = events.end(events.StopReason.EOS, tokens_out=8, decode_time_ms=20, prompt_tokens=3, ttft_ms=5, seed=7)
    made.append((len(TEXT) + 2, sse.encode(end, len(TEXT) + 2)))
    return made


@dataclass
class Script:
    """What the server does and what it saw."""

    cut_after: list[int] = field(default_factory=list)  # connection n ends after so many frames
    refuse_events: list[int] = field(default_factory=list)  # connection n gets this status instead (0: none)
    repeat_from_start: bool = False  # ignore Last-Event-ID, as a careless proxy's cache would
    hold_open: bool = False  # never send the terminal frame
    post_answer: tuple[int, dict[str, Any]] | None = None
    raw_answer: tuple[int, bytes] | None = None
    on_post: Callable[[int], None] | None = None  # called with the number of the job's POST before its answer
    posts: int = 0
    slice_bytes: int = 0
    frames: list[tuple[int | None, bytes]] = field(default_factory=frames)
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    connections: int = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Script

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test output clean."""

    def _read(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {k.lower(): v for k, v in self.headers.items()}
        self.script.requests.append((self.command, self.path, headers, body))

    def _json(self, status: int, value: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self._raw(status, json.dumps(value).encode(), headers)

    def _raw(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self._read()
        if self.path.endswith("/cancel"):
            self.script.cancelled.set()
            self._json(202, {"job_id": JOB, "status": "cancelled"})
        elif self.script.raw_answer is not None:
            self._raw(*self.script.raw_answer)
        elif self.script.post_answer is not None:
            status, value = self.script.post_answer
            self._json(status, value, {"Retry-After": "7"} if status == 429 else None)
        elif self.path == "/execute":
            self._events(0)
        else:
            self.script.posts += 1
            if self.script.on_post is not None:
                self.script.on_post(self.script.posts)
            answer = {"job_id": JOB, "status": "queued", "queue_position": 0, "events_url": f"/v2/tasks/{JOB}/events"}
            self._json(202, answer)

    def do_GET(self) -> None:
        self._read()
        if not self.path.endswith("/events"):
            return self._json(200, {"path": self.path})
        last = self.headers.get("Last-Event-ID")
        return self._events(-1 if last is None or self.script.repeat_from_start else int(last))

    def _events(self, last: int) -> None:
        number = self.script.connections
        self.script.connections += 1
        if number < len(self.script.refuse_events) and (status := self.script.refuse_events[number]):
            error = {"code": "DRAINING" if status == 503 else "JOB_NOT_FOUND", "message": "no"}
            return self._json(status, {"error": error})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        kept = [f for f in self.script.frames if f[0] is None or f[0] > last]
        if self.script.hold_open:
            kept = kept[:-1]
        cut = self.script.cut_after[number] if number < len(self.script.cut_after) else len(kept)
        data = b"".join(frame for _, frame in kept[:cut])
        if cut < len(kept):
            data += kept[cut][1][:7]  # a torn frame at the end
        size = self.script.slice_bytes or max(1, len(data))
        for at in range(0, len(data), size):
            self._chunk(data[at : at + size])
        if self.script.hold_open:
            self.script.released.wait(20)
        if cut >= len(kept) and not self.script.hold_open:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True
        return None

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


@dataclass
class Scripted:
    """The running server: its URL and its script."""

    url: str
    script: Script


@pytest.fixture
def server() -> Iterator[Scripted]:
    """A scripted orchestratord on a free loopback port."""
    script = Script()
    handler = type("BoundHandler", (Handler,), {"script": script})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield Scripted(f"http://127.0.0.1:{http.server_address[1]}", script)
        script.released.set()
        http.shutdown()
        thread.join()
