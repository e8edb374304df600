"""The three deliveries of a task, listing, and what `show` and `explain` say."""

from __future__ import annotations

import subprocess

from daemons import Cluster, call, ended, environment, program, stream, text_of
from fakes import expected_text
from job_bench import PROMPT, Bench


def test_stream_comes_in_order(bench: Bench) -> None:
    """queued, started, tokens, end, with ids 0, 1, i + 2 and last + 1; metrics have no id."""
    worker = bench.worker()
    headers = {"X-Correlation-Id": "abc"}
    with stream(bench.orchestratord.url, "POST", "/v2/tasks", bench.body(max_tokens=9), headers) as events:
        seen = events.rest()
    assert events.headers["x-correlation-id"] == "abc" and events.headers["x-accel-buffering"] == "no"
    kinds = [event.data["type"] for event in seen if event.data["type"] != "metrics"]
    assert kinds == ["queued", "started", *["token"] * 9, "end"]
    assert [event.id for event in seen if event.id is not None] == list(range(12))
    assert all(event.id is None for event in seen if event.data["type"] == "metrics")
    assert text_of(seen) == expected_text(PROMPT, 9)
    started, end = seen[1].data, seen[-1].data
    assert started["worker_id"] == worker.worker_id and started["queue_wait_ms"] >= 0
    assert started["job_id"] == seen[0].data["job_id"] and started["model"] == bench.model
    assert end["stop_reason"] == "MAX_TOKENS" and end["tokens_out"] == 9
    assert worker.executions[0].headers["x-correlation-id"] == "abc"


def test_stream_field_asks_for_a_stream(bench: Bench) -> None:
    """`"stream": true` does what the Accept header does."""
    bench.worker()
    body = bench.body(max_tokens=2, stream=True)
    answer = call(bench.orchestratord.url, "POST", "/v2/tasks", body, {"Accept": "application/json"})
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/event-stream")


def test_plain_post_is_accepted(bench: Bench) -> None:
    """The plain POST, without any Content-Type, answers 202; its events_url leads to the whole stream."""
    bench.worker()
    answer = bench.orchestratord.post("/v2/tasks", bench.body(max_tokens=5))
    assert answer.status == 202 and answer.json["status"] == "queued" and answer.json["queue_position"] == 0
    with stream(bench.orchestratord.url, "GET", answer.json["events_url"]) as events:
        seen = events.rest()
    assert text_of(seen) == expected_text(PROMPT, 5)
    job = ended(bench.orchestratord, answer.json["job_id"])
    assert job["text"] == expected_text(PROMPT, 5) and job["usage"]["tokens_out"] == 5
    assert job["status"] == "completed" and job["stop_reason"] == "MAX_TOKENS"


def test_wait_answers_once_at_the_end(bench: Bench) -> None:
    """With wait, one JSON answer holds the text and the usage."""
    bench.worker()
    answer = bench.orchestratord.post("/v2/tasks", bench.body(max_tokens=4, wait=True))
    assert answer.status == 200
    assert answer.json["status"] == "completed" and answer.json["text"] == expected_text(PROMPT, 4)


def test_messages_reach_the_worker_untouched(bench: Bench) -> None:
    """A conversation is handed on as messages: templating happens on the worker."""
    worker = bench.worker()
    messages = [{"role": "user", "content": "naïve 🦙 <|im_end|>"}]
    body = {"messages": messages, "model": bench.model, "wait": True, "max_tokens": 2, "stop": ["x"], "seed": 2**64 - 1}
    answer = bench.orchestratord.post("/v2/tasks", body)
    assert answer.status == 200, answer.body
    sent = worker.executions[0].body
    assert sent["messages"] == messages and "prompt" not in sent
    assert sent["seed"] == 2**64 - 1 and sent["stop"] == ["x"] and sent["max_tokens"] == 2


def test_the_same_idempotency_key_is_the_same_job(bench: Bench) -> None:
    """A repeated POST gives the first job, live or ended, and runs nothing."""
    worker = bench.worker()
    first = bench.submit(max_tokens=3, idempotency_key="k1" + bench.model)
    ended(bench.orchestratord, first)
    again = bench.orchestratord.post("/v2/tasks", bench.body(max_tokens=3, idempotency_key="k1" + bench.model))
    assert again.status == 200 and again.json["job_id"] == first
    assert len(worker.executions) == 1


def test_listing_pages_newest_first(bench: Bench) -> None:
    """`next` walks through all jobs, newest first, and the status filter holds."""
    bench.worker()
    jobs = [bench.submit(max_tokens=1) for _ in range(5)]
    for job_id in jobs:
        ended(bench.orchestratord, job_id)
    seen: list[str] = []
    cursor = ""
    while len(seen) < 5:
        page = bench.orchestratord.get(f"/v2/tasks?limit=2&status=completed{cursor}").json
        assert len(page["tasks"]) <= 2 and all(task["status"] == "completed" for task in page["tasks"])
        seen += [task["job_id"] for task in page["tasks"]]
        cursor = f"&cursor={page['next']}"
    assert seen[:5] == jobs[::-1]
    assert bench.orchestratord.get("/v2/tasks?status=loading").json == {"tasks": [], "next": None}
    assert bench.orchestratord.get("/v2/tasks?status=done").status == 400


def test_explain_says_who_was_chosen(bench: Bench) -> None:
    """explain lists the decisions with the chosen worker and the refusals."""
    worker = bench.worker()
    job_id = bench.submit(max_tokens=1)
    ended(bench.orchestratord, job_id)
    decisions = bench.orchestratord.get(f"/v2/tasks/{job_id}/explain").json["decisions"]
    assert worker.worker_id in [line["chosen"] for line in decisions]


def test_an_unknown_job_is_a_404(bench: Bench) -> None:
    """Every path of a job that never was answers JOB_NOT_FOUND."""
    for method, tail in [("GET", ""), ("GET", "/events"), ("GET", "/explain"), ("POST", "/cancel"), ("DELETE", "")]:
        answer = call(bench.orchestratord.url, method, f"/v2/tasks/job-nope{tail}")
        assert (answer.status, answer.code) == (404, "JOB_NOT_FOUND")


def test_an_unknown_model_is_a_404(bench: Bench) -> None:
    """A model that nobody ever announced is refused at the door."""
    answer = bench.orchestratord.post("/v2/tasks", {"prompt": "x", "model": "no-such-model"})
    assert (answer.status, answer.code) == (404, "MODEL_NOT_FOUND")


def test_a_known_model_may_wait_for_its_worker(bench: Bench) -> None:
    """A built-in model without a worker is accepted and waits; an alias means its model."""
    answer = bench.orchestratord.post("/v2/tasks", {"prompt": "x", "model": "llama3"})
    assert answer.status == 202
    job = bench.job(answer.json["job_id"])
    assert job["model"] == "llama3-8b" and job["status"] == "queued"
    bench.orchestratord.post(f"/v2/tasks/{job['job_id']}/cancel")


def test_a_model_registered_while_we_run_may_wait(cluster: Cluster) -> None:
    """The catalog is read again when it changed: no restart, no second of 404."""
    daemon = cluster.orchestratord()
    body = {"prompt": "x", "model": "fresh"}
    assert daemon.post("/v2/tasks", body).code == "MODEL_NOT_FOUND"
    register = [*program("llorch-pool"), "models", "register", "--id", "fresh-1", "--repo", "a/b", "--alias", "fresh"]
    subprocess.run(register, env=environment(cluster.home), check=True, capture_output=True, timeout=30)
    answer = daemon.post("/v2/tasks", body)
    assert answer.status == 202
    assert daemon.get(f"/v2/tasks/{answer.json['job_id']}").json["model"] == "fresh-1"


def test_pools_are_named_in_any_case(bench: Bench) -> None:
    """Host names have no case; wishes are bounded like every other text."""
    worker = bench.worker()
    daemon = bench.orchestratord
    assert daemon.post("/v2/pools", {"id": "Named.Home.Arpa"}).json["id"] == "named.home.arpa"
    for wish in ({"pin_pool": "LOCALHOST"}, {"prefer_pools": ["LocalHost"], "allow_fallback": False}):
        body = bench.body(max_tokens=1, wait=True, placement=wish)
        moved = worker.announcement().to_body() | {"url": worker.url.replace("127.0.0.1", "localhost")}
        moved["worker_id"] = f"{worker.worker_id}-named"
        assert daemon.post("/v2/workers/ready", moved).status == 200
        assert daemon.post("/v2/tasks", body).status == 200
    long = bench.body(placement={"prefer_pools": ["x" * 256], "avoid_pools": ["y" * 256], "pin_pool": "z" * 256})
    problems = daemon.post("/v2/tasks", long).json["error"]["details"]["problems"]
    assert {p["field"] for p in problems} == {f"placement.{n}" for n in ("pin_pool", "prefer_pools", "avoid_pools")}
