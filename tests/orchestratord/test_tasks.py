"""The three deliveries of a task, and reading it again."""

from __future__ import annotations

from collections.abc import Callable

from daemons import Daemon, ended, stream, text_of
from fakes import FakeWorker, expected_text

Workers = Callable[..., FakeWorker]
PROMPT = "Once upon a time"


def test_stream_comes_in_order(orchestratord: Daemon, workers: Workers) -> None:
    """queued, started, tokens, end, with ids 0, 1, i + 2 and last + 1; metrics have no id."""
    workers(orchestratord)
    body = {"prompt": PROMPT, "model": "demo", "max_tokens": 9}
    with stream(orchestratord.url, "POST", "/v2/tasks", body, {"X-Correlation-Id": "abc"}) as events:
        seen = events.rest()
    assert events.headers["x-correlation-id"] == "abc"
    assert events.headers["x-accel-buffering"] == "no"
    kinds = [event.data["type"] for event in seen if event.data["type"] != "metrics"]
    assert kinds == ["queued", "started", *["token"] * 9, "end"]
    assert [event.id for event in seen if event.id is not None] == list(range(12))
    assert all(event.id is None for event in seen if event.data["type"] == "metrics")
    assert text_of(seen) == expected_text(PROMPT, 9)
    started, end = seen[1].data, seen[-1].data
    assert started["worker_id"] == "fake-1" and started["queue_wait_ms"] >= 0
    assert started["job_id"] == seen[0].data["job_id"]
    assert end["stop_reason"] == "MAX_TOKENS" and end["tokens_out"] == 9


def test_plain_post_is_accepted(orchestratord: Daemon, workers: Workers) -> None:
    """The plain POST answers 202 and its events_url leads to the whole stream."""
    workers(orchestratord)
    answer = orchestratord.post("/v2/tasks", {"prompt": PROMPT, "max_tokens": 5})
    assert answer.status == 202 and answer.json["status"] == "queued"
    with stream(orchestratord.url, "GET", answer.json["events_url"]) as events:
        seen = events.rest()
    assert text_of(seen) == expected_text(PROMPT, 5)
    job = ended(orchestratord, answer.json["job_id"])
    assert job["text"] == expected_text(PROMPT, 5) and job["usage"]["tokens_out"] == 5


def test_wait_answers_once_at_the_end(orchestratord: Daemon, workers: Workers) -> None:
    """With wait, one JSON answer holds the text and the usage."""
    workers(orchestratord)
    answer = orchestratord.post("/v2/tasks", {"prompt": PROMPT, "max_tokens": 4, "wait": True})
    assert answer.status == 200
    assert answer.json["status"] == "completed" and answer.json["text"] == expected_text(PROMPT, 4)
