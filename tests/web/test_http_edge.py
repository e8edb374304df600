"""The HTTP edge on real sockets, under both event loops: limits, correlation ids, and the shape of every answer."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import uvloop
from aiohttp import web
from daemons import Answer, call

from llorch.base.errors import HostError, WorkerUnavailable
from llorch.web import bodies, edge, listening
from llorch.web.answers import json_response
from llorch.web.listening import Listener
from llorch.web.sockets import bound_socket, share_with_lingering, stays_local

CONNECTIONS_MAX = 8


async def echo(request: web.Request) -> web.Response:
    """What came, and which id it travels under."""
    return json_response({"got": await bodies.read_object(request), "id": request[edge.CORRELATION]})


async def broken(request: web.Request) -> web.Response:
    """A bug."""
    raise RuntimeError("a bug of ours")


async def late(request: web.Request) -> web.Response:
    """A time-out that nobody caught."""
    raise TimeoutError


async def busy(request: web.Request) -> web.Response:
    """A refusal that says when to come back."""
    raise WorkerUnavailable("no slot is free", retry_after_s=1.2)


async def stream(request: web.Request) -> web.StreamResponse:
    """A stream that ends as `?how` says."""
    response = web.StreamResponse()
    await response.prepare(request)
    if request.query["how"] != "at once":
        await response.write(b"first ")
    if request.query["how"] == "well":
        await response.write_eof(b"last")
        return response
    raise WorkerUnavailable if request.query["how"] == "refused" else RuntimeError("a bug in a stream")


ROUTES = [
    web.post("/echo", echo),
    web.get("/broken", broken),
    web.get("/late", late),
    web.get("/busy", busy),
    web.get("/stream", stream),
]


@dataclass
class Edge:
    """A listener that runs in a thread of its own."""

    port: int

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """One request; header names take _ for -."""
        return call(self.url, method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})

    def raw(self, data: bytes) -> bytes:
        """Send bytes; everything that comes until the connection is closed."""
        with socket.create_connection(("127.0.0.1", self.port), 15) as sock:
            sock.sendall(data)
            return drained(sock)


def drained(sock: socket.socket) -> bytes:
    """Everything until the other side closes."""
    answer = b""
    try:
        while chunk := sock.recv(65536):
            answer += chunk
    except ConnectionResetError:
        pass
    return answer


@pytest.fixture
def deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short ones; has to be asked for before `served`."""
    monkeypatch.setattr(listening, "HEADER_DEADLINE_S", 0.3)
    monkeypatch.setattr(bodies, "DEADLINE_S", 0.3)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def served(request: pytest.FixtureRequest) -> Iterator[Edge]:
    """A listener with a few routes, on a free port, under each event loop."""
    loop: asyncio.AbstractEventLoop = request.param()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(10)

    app = edge.application()
    app.add_routes(ROUTES)
    listener, sock = Listener(app, CONNECTIONS_MAX), bound_socket("127.0.0.1", 0)
    port = sock.getsockname()[1]
    run(listener.start(sock))
    yield Edge(port)
    run(listener.stop())
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    sock.close()
    loop.close()


def is_ours(answer: Answer, status: int, code: str) -> bool:
    """Is this an error in our shape, under one correlation id, from a server that names no version?"""
    error = answer.json["error"]
    assert (answer.status, error["code"]) == (status, code), answer
    assert error["correlation_id"] == answer.headers["x-correlation-id"]
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.headers["server"] == "llorch"
    return True


def test_a_request_travels_under_one_id(served: Edge) -> None:
    """A well-formed id is kept and another one replaced; handler, body and header agree, in streams, too."""
    answer = served.call("POST", "/echo", {"a": 1}, X_Correlation_Id="abc-1")
    assert answer.json == {"got": {"a": 1}, "id": "abc-1"}
    assert answer.headers["x-correlation-id"] == "abc-1" and answer.headers["server"] == "llorch"
    answer = served.call("POST", "/echo", {}, X_Correlation_Id="not one")
    assert answer.headers["x-correlation-id"] == answer.json["id"] != "not one"
    answer = served.call("GET", "/stream?how=well", X_Correlation_Id="abc-2")
    assert (answer.body, answer.headers["x-correlation-id"]) == (b"first last", "abc-2")
    assert answer.headers["server"] == "llorch"


def test_every_error_has_one_shape(served: Edge) -> None:
    """Whoever refuses, the answer is ours: no path, no method, bad bodies, what aiohttp refuses by itself."""
    assert is_ours(served.call("GET", "/nowhere"), 404, "NOT_FOUND")
    wrong = served.call("GET", "/echo", X_Correlation_Id="abc-3")
    assert is_ours(wrong, 405, "METHOD_NOT_ALLOWED") and wrong.headers["allow"] == "POST"
    assert wrong.headers["x-correlation-id"] == "abc-3"
    assert is_ours(served.call("POST", "/echo", b"["), 400, "INVALID_REQUEST")
    assert is_ours(served.call("POST", "/echo", b"\x1f\x8b", Content_Encoding="gzip"), 415, "UNSUPPORTED_MEDIA_TYPE")
    large = b'{"prompt":"' + b"x" * bodies.SIZE_MAX + b'"}'
    assert is_ours(served.call("POST", "/echo", large), 413, "BODY_TOO_LARGE")
    strange = served.call("POST", "/echo", b"{}", Expect="the-secret-word", X_Correlation_Id="abc-4")
    assert is_ours(strange, 417, "INVALID_REQUEST") and b"secret" not in strange.body
    assert strange.headers["x-correlation-id"] == "abc-4"


def test_waits_are_rounded_up(served: Edge) -> None:
    """Retry-After is whole seconds, never less than what was meant."""
    answer = served.call("GET", "/busy")
    assert is_ours(answer, 503, "WORKER_UNAVAILABLE") and answer.headers["retry-after"] == "2"


@pytest.mark.parametrize("path", ["/broken", "/late"])
def test_our_bugs_are_500_and_in_the_log(served: Edge, path: str, caplog: pytest.LogCaptureFixture) -> None:
    """The client learns the correlation id and nothing of the inside; the traceback is in the log."""
    with caplog.at_level(logging.ERROR, "llorch.web.listening"):
        answer = served.call("GET", path, X_Correlation_Id="abc-5")
    assert is_ours(answer, 500, "INTERNAL") and answer.headers["x-correlation-id"] == "abc-5"
    assert b"bug" not in answer.body
    (record,) = [record for record in caplog.records if record.name == "llorch.web.listening"]
    assert record.exc_info is not None and record.exc_info[0] in (RuntimeError, TimeoutError)


@pytest.mark.parametrize("how", ["refused", "broken", "at%20once"])
def test_an_answer_that_has_begun_breaks_off(served: Edge, how: str) -> None:
    """What fails in the middle of a stream is never followed by a second answer, and the stream does not seem whole."""
    answer = served.raw(f"GET /stream?how={how} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert answer.count(b"HTTP/1.1") <= 1 and b"error" not in answer
    assert not answer.endswith(b"\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "data",
    [
        b"the-secret-word\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: x\r\nthe-secret-word\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"A%d: the-secret-word\r\n" % n for n in range(2_000)) + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: the-secret-word" + b"x" * (64 << 10) + b"\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nthe-secret-word",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: the-secret-word\r\n\r\n",
    ],
    ids=["garbage", "no colon", "many headers", "large header", "two lengths", "no number"],
)
def test_malformed_http_is_one_400_without_echo(served: Edge, data: bytes) -> None:
    """Our shape, a correlation id, no word of what was sent, no version; then the connection is closed."""
    answer = served.raw(data)
    head, _, body = answer.partition(b"\r\n\r\n")
    if not answer and len(data) > 20_000:
        return  # the kernel drops an answer when the connection is closed on unread data
    assert head[8:13] == b" 400 " and b"\r\nServer: llorch\r\n" in head + b"\r\n"
    error = json.loads(body)["error"]
    assert error["code"] == "INVALID_REQUEST" and error["correlation_id"].encode() in head
    assert b"secret" not in answer and b"aiohttp" not in answer and b"Python" not in answer


def test_whoever_says_nothing_is_cut(deadlines: None, served: Edge) -> None:
    """A connection without a whole request is cut at the header deadline, a body at the body deadline (408)."""
    began = time.monotonic()
    assert served.raw(b"") == b"" == served.raw(b"GET /ec")
    slow = served.raw(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert slow.startswith(b"HTTP/1.1 408 ") and b'"code":"INVALID_REQUEST"' in slow
    assert time.monotonic() - began < 8.0


def test_connections_are_counted(served: Edge) -> None:
    """Above the limit a connection is closed at once; the others go on, and a place that becomes free is given."""
    idle = [socket.create_connection(("127.0.0.1", served.port), 10) for _ in range(CONNECTIONS_MAX)]
    for sock in idle:
        sock.sendall(b"GET /busy HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 503 ")
    assert served.raw(b"") == b""
    idle[0].sendall(b"GET /busy HTTP/1.1\r\nHost: x\r\n\r\n")
    assert idle[0].recv(65536).startswith(b"HTTP/1.1 503 ")
    for sock in idle:
        sock.close()
    eventually(lambda: served.raw(b"GET /x HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 404 "))


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    give_up_at = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up_at, "waited in vain"
        time.sleep(0.01)


def test_two_sockets_never_share_a_port() -> None:
    """A port that is bound but does not listen yet, because a model loads, is taken; the refusal names it."""
    with bound_socket("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(HostError, match=rf"port {port} on 127\.0\.0\.1 is in use: choose another with --port"):
            bound_socket("127.0.0.1", port)


def test_a_restart_takes_the_port_at_once() -> None:
    """Connections of the daemon before that linger do not keep the port."""
    with bound_socket("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        first.setblocking(True)
        share_with_lingering(first)
        first.listen()
        with socket.create_connection(("127.0.0.1", port)) as client:
            server_end, _ = first.accept()
            server_end.close()  # closed first: this end lingers
            client.recv(1)
    bound_socket("127.0.0.1", port).close()


def test_which_binding_stays_on_this_machine() -> None:
    """Names are looked up: each of their addresses has to be loopback. An unknown name is a clear refusal."""
    assert stays_local("127.0.0.1") and stays_local("localhost") and stays_local("::1")
    assert not stays_local("0.0.0.0") and not stays_local("::")
    with pytest.raises(HostError, match=r"--bind no\.such\.host\.invalid: not an address"):
        stays_local("no.such.host.invalid")
