"""Both clients keep the same promises: one undisturbed stream whatever the network does, typed errors, cancelling."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

import llorch
from llorch.base.errors import (
    ConfigError,
    InvalidRequest,
    JobNotFound,
    LlorchError,
    QueueFull,
    Unauthorized,
    Unreachable,
)
from llorch.client import AsyncClient, Client, InferenceRequest, Priority
from llorch.client.events import End, InferenceEvent, Metrics, Queued, Started, Token, from_wire
from llorch.client.sync import OnClose
from llorch.wire.logprobs import Likely, TokenLogprob
from llorch.wire.tasks import Placement, parse_task
from tests.client.conftest import JOB, TEXT, Scripted

REQUEST = InferenceRequest(prompt="Once", model="demo", max_tokens=8, temperature=0.0)
Collect = Callable[[str], list[InferenceEvent]]


def collect_sync(url: str) -> list[InferenceEvent]:
    return list(Client(url, rng=Random(1)).stream(REQUEST))


def collect_async(url: str) -> list[InferenceEvent]:
    async def run() -> list[InferenceEvent]:
        async with AsyncClient(url, rng=Random(1)) as client:
            return [event async for event in client.stream(REQUEST)]

    return asyncio.run(run())


both = pytest.mark.parametrize("collect", [collect_sync, collect_async])


def check_story(events: list[InferenceEvent]) -> None:
    tokens = [e for e in events if isinstance(e, Token)]
    assert [t.i for t in tokens] == list(range(len(TEXT)))
    assert [t.t for t in tokens] == TEXT
    assert [type(e) for e in events if not isinstance(e, (Token, Metrics))] == [Queued, Started, End]
    assert isinstance(events[-1], End)


@both
def test_an_undisturbed_stream_gives_every_event_in_order(server: Scripted, collect: Collect) -> None:
    """stream() posts, takes the 202 and yields queued, started, tokens, end."""
    events = collect(server.url)
    check_story(events)
    assert events[0] == Queued(JOB, 0)
    assert events[1] == Started(JOB, "demo", "2026-01-01T00:00:00.000Z", "worker-cpu-1", 3)
    assert events[-1] == End(8, 20, "EOS", 3, 5, 7)
    assert not server.script.cancelled.is_set()


@both
@pytest.mark.parametrize("cut", [0, 1, 4, 7, 11])
def test_a_dropped_stream_resumes_without_gap_or_repeat(server: Scripted, collect: Collect, cut: int) -> None:
    """Wherever a connection is cut, even inside a frame, Last-Event-ID makes the next one go on exactly there."""
    server.script.cut_after = [cut, 1, 2]
    check_story(collect(server.url))
    asked = [h.get("last-event-id") for m, p, h, _ in server.script.requests if p.endswith("/events")]
    assert asked[0] is None and len(asked) >= 2


@both
def test_bytes_may_arrive_one_at_a_time(server: Scripted, collect: Collect) -> None:
    """Chunk borders inside a character or a frame do not matter."""
    server.script.slice_bytes = 1
    check_story(collect(server.url))


@both
def test_repeated_events_are_dropped(server: Scripted, collect: Collect) -> None:
    """A peer that ignores Last-Event-ID does not make any token come twice."""
    server.script.cut_after, server.script.repeat_from_start = [6], True
    check_story(collect(server.url))


@both
def test_a_restarting_service_is_waited_for(server: Scripted, collect: Collect) -> None:
    """503 while orchestratord starts is retried with back-off, not reported."""
    server.script.refuse_events = [503, 503]
    check_story(collect(server.url))
    assert server.script.connections == 3


@both
def test_a_lost_job_is_an_error_at_once(server: Scripted, collect: Collect) -> None:
    """404 is final: no retry can bring the job back."""
    server.script.refuse_events = [404]
    with pytest.raises(JobNotFound):
        collect(server.url)
    assert server.script.connections == 1


@both
def test_a_gap_is_never_passed_on(server: Scripted, collect: Collect) -> None:
    """A stream that lacks a piece raises; silently missing text would be worse."""
    server.script.frames = [f for f in server.script.frames if f[0] != 5]
    with pytest.raises(LlorchError, match="gap: piece 3"):
        collect(server.url)


@both
def test_error_bodies_become_their_class(server: Scripted, collect: Collect) -> None:
    """The code decides the class; Retry-After, details and every listed problem are kept."""
    server.script.post_answer = (429, {"error": {"code": "QUEUE_FULL", "message": "the queue is full"}})
    with pytest.raises(QueueFull) as full:
        collect(server.url)
    assert full.value.retry_after_s == 7 and full.value.exit_code == 75
    problems = [{"field": "top_p", "message": "must be a number"}]
    body = {"code": "INVALID_REQUEST", "message": "not valid", "details": {"problems": problems}}
    server.script.post_answer = (400, {"error": body})
    with pytest.raises(InvalidRequest, match=r"not valid \(top_p: must be a number\)") as bad:
        collect(server.url)
    assert bad.value.details == {"problems": problems}


@both
@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, b"", Unauthorized),
        (200, b"<html>", LlorchError),
        (202, b"{}", LlorchError),
        (302, b"", LlorchError),
        (500, b'{"error": 1}', LlorchError),
        (502, b"<html>bad gateway", LlorchError),
    ],
)
def test_foreign_answers_give_one_clear_error(
    server: Scripted, collect: Collect, status: int, body: bytes, expected: type[LlorchError]
) -> None:
    """Whatever answers at the URL, the caller gets a LlorchError, never a parser's own."""
    server.script.raw_answer = (status, body)
    with pytest.raises(expected):
        collect(server.url)


@both
def test_a_refused_connection_names_the_url(collect: Collect) -> None:
    """Nobody listening is Unreachable (exit 5) with the URL in its line."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, not listening: refused, and nobody else can take it
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(Unreachable, match=url) as refused:
            collect(url)
    assert refused.value.exit_code == 5


def test_closing_the_iterator_cancels_the_job(server: Scripted) -> None:
    """Leaving a stream() loop early frees the slot; leaving a follow() loop leaves the job alone."""
    server.script.hold_open = True
    client = Client(server.url)
    with client.enqueue(REQUEST).events() as followed:
        assert isinstance(next(followed), Queued)
    assert not server.script.cancelled.is_set()
    for event in client.stream(REQUEST):
        if isinstance(event, Token):
            break
    assert server.script.cancelled.wait(5)


def test_closing_the_async_iterator_cancels_the_job(server: Scripted) -> None:
    """aclose(), or leaving the task, does for the async client what close() does."""
    server.script.hold_open = True

    async def run() -> None:
        async with AsyncClient(server.url) as client:
            events = client.stream(REQUEST)
            async for event in events:
                if isinstance(event, Token):
                    break
            await events.aclose()

    asyncio.run(run())
    assert server.script.cancelled.is_set()


def test_closing_an_unread_stream_cancels_the_job(server: Scripted) -> None:
    """The job is accepted before the first event is read; leaving it then must free it, too, once."""
    with Client(server.url).stream(REQUEST) as events:
        pass
    events.close()
    assert [path for _, path, _, _ in server.script.requests] == ["/v2/tasks", f"/v2/tasks/{JOB}/cancel"]


def test_closing_an_unread_async_stream_cancels_the_job(server: Scripted) -> None:
    """The same for the async client's follow; its stream() has submitted nothing before its first step."""

    async def run() -> None:
        async with AsyncClient(server.url) as client:
            await client.stream(REQUEST).aclose()
            assert server.script.requests == []
            async with client.follow(JOB, on_close=OnClose.CANCEL) as events:
                pass
            await events.aclose()

    asyncio.run(run())
    assert [path for _, path, _, _ in server.script.requests] == [f"/v2/tasks/{JOB}/cancel"]


def test_ctrl_c_before_the_id_is_known_cancels_the_job(server: Scripted) -> None:
    """The 202 never comes: the job is found again by its idempotency key, and cancelled."""

    def press(number: int) -> None:
        if number == 1:
            os.kill(os.getpid(), signal.SIGINT)
            server.script.released.wait(20)

    server.script.on_post = press
    with pytest.raises(KeyboardInterrupt):
        Client(server.url).stream(replace(REQUEST, idempotency_key="once"))
    assert server.script.cancelled.is_set()
    bodies = [json.loads(body) for _, path, _, body in server.script.requests if path == "/v2/tasks"]
    assert [body["idempotency_key"] for body in bodies] == ["once", "once"]


def test_a_finished_stream_is_not_cancelled(server: Scripted) -> None:
    """Closing after the terminal event asks for nothing, although nobody read on to StopIteration."""
    with Client(server.url).stream(REQUEST) as events:
        while not isinstance(next(events), End):
            pass
    assert not server.script.cancelled.is_set()


def test_the_key_travels_as_a_bearer_only(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key comes from the argument or LLORCH_API_KEY, goes into Authorization, and never into a URL."""
    monkeypatch.setenv("LLORCH_API_KEY", "llk_from_environment")
    Client(server.url).health()
    Client(server.url, key="llk_given").health()
    seen = [headers["authorization"] for _, _, headers, _ in server.script.requests]
    assert seen == ["Bearer llk_from_environment", "Bearer llk_given"]
    for url in ("http://user:secret@host", "ftp://host", "http://", "http://h:99999", "http://h/?q=1"):
        with pytest.raises(ConfigError):
            Client(url)
    with pytest.raises(ConfigError):
        Client(server.url, key="two\nlines")


def test_jobs_asks_for_a_page(server: Scripted) -> None:
    """Filters and the page mark go into the query, ids are escaped in the path."""
    client = Client(server.url + "/prefix/")
    assert client.jobs(status="queued", limit=5, cursor="a b")["path"] == (
        "/prefix/v2/tasks?status=queued&limit=5&cursor=a+b"
    )
    assert client.job("../health")["path"] == "/prefix/v2/tasks/..%2Fhealth"


def test_a_request_with_every_field_is_what_the_server_parses(server: Scripted) -> None:
    """InferenceRequest's fields arrive in a body that the server's own strict parser takes."""
    request = InferenceRequest(
        messages=[{"role": "user", "content": "hi 🦙"}],
        model="demo",
        max_tokens=5,
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias={50: -100, 7: 1.5},
        logprobs=3,
        stop=["a", "b"],
        seed=7,
        priority=Priority.BATCH,
        session_id="s1",
        deadline_ms=1000,
        timeout_ms=2000,
        placement=Placement(pin_worker="w1", prefer_pools=("mac",), avoid_pools=("blep",), allow_fallback=False),
        idempotency_key="k1",
    )
    Client(server.url).enqueue(request)
    parsed = parse_task(json.loads(server.script.requests[0][3]))
    assert parsed.priority is Priority.BATCH and parsed.placement == request.placement
    assert parsed.sampling.presence_penalty == 0.5 and parsed.sampling.frequency_penalty == -0.5
    assert parsed.sampling.logit_bias == ((7, 1.5), (50, -100.0)) and parsed.sampling.logprobs == 3
    assert parsed.sampling.stop == ("a", "b") and parsed.sampling.seed == 7 and parsed.messages[0].content == "hi 🦙"


def test_log_probabilities_reach_the_program() -> None:
    """A token event carries them when the frame does."""
    entry = {"id": 7, "logprob": -0.5, "top": [{"id": 7, "logprob": -0.5}]}
    event = from_wire({"type": "token", "t": "a", "i": 0, "ids": [7], "logprobs": [entry]})
    assert event == Token("a", 0, (TokenLogprob(7, -0.5, (Likely(7, -0.5),)),))
    assert from_wire({"type": "token", "t": "a", "i": 0, "ids": [7]}) == Token("a", 0)


def test_the_package_offers_the_sdk_names() -> None:
    """`from llorch import Client, ...` works, and unknown names stay errors."""
    assert llorch.Client is Client
    assert llorch.InferenceRequest is InferenceRequest
    assert {"Started", "Token", "End"} <= {kind.__name__ for kind in llorch.InferenceEvent.__args__}  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        _ = llorch.Nonsense  # type: ignore[attr-defined]


def test_both_clients_ask_for_sessions_and_usage(server: Scripted) -> None:
    """The same paths and bodies from both; an id is quoted, a limit that was not given is not sent."""

    async def work() -> None:
        async with AsyncClient(server.url, key="") as client:
            await client.open_session("a/b", ttl_s=5, tokens_max=9)
            await client.open_session()
            await client.sessions()
            await client.session("a/b")
            await client.usage()
            await client.usage(30)

    asyncio.run(work())
    client = Client(server.url, key="")
    client.open_session("a/b", ttl_s=5, tokens_max=9)
    client.open_session()
    client.sessions()
    client.session("a/b")
    client.usage()
    client.usage(30)
    seen = [(method, path, body) for method, path, _, body in server.script.requests]
    assert seen[:6] == seen[6:]
    assert [path for _, path, _ in seen[:6]] == [
        *("/v2/sessions", "/v2/sessions", "/v2/sessions", "/v2/sessions/a%2Fb", "/v2/usage", "/v2/usage?days=30"),
    ]
    assert [json.loads(body) for _, _, body in seen[:2]] == [{"session_id": "a/b", "ttl_s": 5, "tokens_max": 9}, {}]
