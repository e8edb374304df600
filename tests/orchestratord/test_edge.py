"""What comes from outside: bad bodies, bad HTTP, slow and stalled clients, and the shape of every error."""

from __future__ import annotations

import json
import re
import socket
import time
from urllib.parse import urlsplit

import pytest
from daemons import Daemon, call, until
from job_bench import Bench

BAD_BODIES = {
    "empty": b"",
    "not json": b"{",
    "a list": b"[]",
    "nan": b'{"prompt":"x","temperature":NaN}',
    "infinity": b'{"prompt":"x","temperature":1e999}',
    "duplicate key": b'{"prompt":"x","prompt":"y"}',
    "lone surrogate": b'{"prompt":"\\ud800"}',
    "bad utf-8": b'{"prompt":"\xff"}',
    "byte order mark": b'\xef\xbb\xbf{"prompt":"x"}',
    "deep": b'{"prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "digits": b'{"prompt":"x","seed":' + b"9" * 100_000 + b"}",
    "unknown field": b'{"prompt":"x","max_token":3}',
    "both": b'{"prompt":"x","messages":[]}',
    "neither": b"{}",
    "bad priority": b'{"prompt":"x","priority":"urgent"}',
    "too hot": b'{"prompt":"x","temperature":2.1}',
    "bad model": b'{"prompt":"x","model":"../etc/passwd"}',
    "nul in model": b'{"prompt":"x","model":"a\\u0000b"}',
    "wait and stream": b'{"prompt":"x","wait":true,"stream":true}',
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_bad_bodies_are_400(shared_orchestratord: Daemon, body: bytes) -> None:
    """Every malformed body is INVALID_REQUEST in our shape, and the prompt is not echoed."""
    answer = shared_orchestratord.post("/v2/tasks", body)
    assert (answer.status, answer.code) == (400, "INVALID_REQUEST")
    error = answer.json["error"]
    assert error["retriable"] is False and error["correlation_id"] == answer.headers["x-correlation-id"]


def test_all_problems_are_reported_at_once(shared_orchestratord: Daemon) -> None:
    """One answer lists every problem of a body, with a suggestion for a misspelt field."""
    answer = shared_orchestratord.post("/v2/tasks", {"prompt": 7, "max_tokns": 1, "temperature": "hot"})
    problems = {problem["field"]: problem["message"] for problem in answer.json["error"]["details"]["problems"]}
    assert set(problems) == {"prompt", "max_tokns", "temperature"}
    assert "did you mean 'max_tokens'" in problems["max_tokns"]


def test_other_errors_have_the_same_shape(shared_orchestratord: Daemon) -> None:
    """Unknown paths, wrong methods, large and compressed bodies."""
    url = shared_orchestratord.url
    large = b'{"prompt":"' + b"x" * (8 << 20) + b'"}'
    for answer, status, code in [
        (call(url, "GET", "/v1/models"), 404, "NOT_FOUND"),
        (call(url, "PUT", "/v2/tasks"), 405, "METHOD_NOT_ALLOWED"),
        (call(url, "POST", "/v2/tasks", large), 413, "BODY_TOO_LARGE"),
        (call(url, "POST", "/v2/tasks", b"\x1f\x8b", {"Content-Encoding": "gzip"}), 415, "UNSUPPORTED_MEDIA_TYPE"),
    ]:
        assert (answer.status, answer.code) == (status, code)
        assert answer.json["error"]["correlation_id"] == answer.headers["x-correlation-id"]


def test_correlation_ids_are_kept_or_minted(shared_orchestratord: Daemon) -> None:
    """A well-formed X-Correlation-Id comes back; anything else is replaced."""
    kept = shared_orchestratord.get("/health", headers={"X-Correlation-Id": "abc-123"})
    assert kept.headers["x-correlation-id"] == "abc-123"
    for bad in ("a b", "x" * 65, "ü"):
        answer = shared_orchestratord.get("/health", headers={"X-Correlation-Id": bad.encode().decode("latin-1")})
        assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["x-correlation-id"])


def raw(daemon: Daemon, data: bytes, timeout_s: float = 15.0) -> bytes:
    """Send bytes; everything that comes back until the connection is closed."""
    parts = urlsplit(daemon.url)
    with socket.create_connection((parts.hostname, parts.port), timeout_s) as sock:
        sock.sendall(data)
        answer = b""
        try:
            while chunk := sock.recv(65536):
                answer += chunk
        except ConnectionResetError:
            pass
    return answer


@pytest.mark.parametrize(
    "data",
    [
        b"a-secret\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"A%d: 1\r\n" % n for n in range(20_000)) + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * (64 << 10) + b"\r\n\r\n",
        b"POST /v2/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    ids=["garbage", "many headers", "large header", "two lengths"],
)
def test_bad_http_is_400_and_closed(shared_orchestratord: Daemon, data: bytes) -> None:
    """What is not sound HTTP gets one 400 in our shape and the connection is closed."""
    answer = raw(shared_orchestratord, data)
    assert b" 400 " in answer.partition(b"\r\n")[0] or answer == b"", answer[:200]
    if answer:
        error = json.loads(answer.rpartition(b"\r\n\r\n")[2])["error"]
        assert error["code"] == "INVALID_REQUEST"
        assert error["correlation_id"].encode() in answer.partition(b"\r\n\r\n")[0]
        assert b"secret" not in answer and b"aiohttp" not in answer and b"\r\nServer: llorch\r\n" in answer


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [b"GET /hea", b"POST /v2/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"],
    ids=["headers", "body"],
)
def test_slow_requests_are_cut(shared_orchestratord: Daemon, data: bytes) -> None:
    """Headers or a body that do not come are cut within ten seconds or so."""
    began = time.monotonic()
    raw(shared_orchestratord, data)
    assert time.monotonic() - began < 12.0


@pytest.mark.slow
def test_a_stalled_client_is_cut_and_others_are_not_held_up(bench: Bench) -> None:
    """A client that does not read is cut after its write deadline; a second reader of the same job gets everything."""
    bench.worker(context_length=1_000_000)
    job_id = bench.submit(max_tokens=100_000)
    parts = urlsplit(bench.orchestratord.url)
    stalled = socket.socket()
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stalled.connect((parts.hostname, parts.port))
    stalled.sendall(f"GET /v2/tasks/{job_id}/events HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
    with bench.events(job_id) as events:
        seen = sum(event.data["type"] == "token" for event in events)
    assert seen == 100_000

    def is_cut() -> bool:
        try:
            stalled.send(b"x")
        except OSError:
            return True
        return False

    until(is_cut, "the stalled client is cut", 20)
    stalled.close()
    with bench.events(job_id, 50_001) as events:
        assert next(iter(events)).data["i"] == 50_000


def test_web_pages_may_not_use_keyless_loopback(shared_orchestratord: Daemon) -> None:
    """A foreign Origin, or a name of its own that points here, opens nothing without a key."""
    port = urlsplit(shared_orchestratord.url).port
    for headers in (
        {"Origin": "http://evil.example"},
        {"Host": f"evil.example:{port}"},
        {"X-Forwarded-For": "1.2.3.4"},
    ):
        answer = shared_orchestratord.post("/v2/tasks", {"prompt": "x"}, headers=headers)
        assert (answer.status, answer.code) == (401, "UNAUTHORIZED"), headers
    same = {"Origin": shared_orchestratord.url}
    assert shared_orchestratord.post("/v2/tasks", {"prompt": "x"}, headers=same).status == 202


def test_health_has_exactly_the_four_counts(shared_orchestratord: Daemon) -> None:
    """/health is what the users' scripts expect, /healthz and /readyz say ok, /metrics is Prometheus text."""
    health = shared_orchestratord.get("/health").json
    assert set(health) == {"status", "pools", "workers", "queue_depth"} and health["status"] == "healthy"
    assert shared_orchestratord.get("/healthz").status == shared_orchestratord.get("/readyz").status == 200
    text = shared_orchestratord.get("/metrics").body.decode()
    for line in text.splitlines():
        assert re.fullmatch(r'(# (HELP|TYPE) .+)|([a-z_]+(\{[a-z]+="[^"]*"\})? [0-9.e+-]+)', line), line
    assert "llorch_time_to_first_token_seconds_bucket" in text
