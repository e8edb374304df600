"""Sampling fields, log probabilities and prefix affinity through a real orchestratord."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from daemons import Cluster, Daemon, ended, until
from fakes import Fault, Trouble, token_logprobs
from job_bench import PROMPT, Bench

from llorch.wire import prefix
from llorch.wire.messages import Message

COUNT = 20
SAMPLING = {
    "presence_penalty": 0.5,
    "frequency_penalty": -1,
    "logit_bias": {"7": 1.5, "123": -100},
    "logprobs": 2,
}
DOCUMENT = "It was a dark and stormy night. " * 40


def figures(events: list[Any]) -> list[Any]:
    """The log probabilities of a stream's tokens, in order."""
    return [entry for event in events if event.data["type"] == "token" for entry in event.data["logprobs"]]


EXPECTED = [entry.to_body() for position in range(COUNT) for entry in token_logprobs(position, 2)]


def test_every_attempt_is_asked_for_the_same(bench: Bench) -> None:
    """A continued job has the same fields on the other worker; its stream, resumed and replayed, has all figures."""
    troubles = [Trouble(Fault.DIE, 5)]
    both = [bench.worker(troubles=troubles) for _ in range(2)]
    with bench.stream(max_tokens=COUNT, **SAMPLING) as events:
        seen = events.rest()
    job_id = seen[0].data["job_id"]
    assert figures(seen) == EXPECTED
    with bench.events(job_id, after=6) as events:
        assert figures(events.rest()) == EXPECTED[5:]
    bodies = [run.body for worker in both for run in worker.executions]
    assert len(bodies) == 2
    for body in bodies:
        assert {name: body[name] for name in SAMPLING} == SAMPLING


def test_fields_and_figures_outlive_kill_9(cluster: Cluster, benches: Callable[[Daemon], Bench]) -> None:
    """The restarted orchestratord asks for the same, and the segment gives back what was relayed before."""
    first = benches(cluster.orchestratord())
    worker = first.worker(token_delay_s=0.02)
    job_id = first.submit(max_tokens=COUNT, **SAMPLING)
    with first.events(job_id) as events:
        events.take(5)
    first.orchestratord.kill()
    until(lambda: worker.executions[0].ended, "the worker noticed")
    second = benches(cluster.orchestratord(port=int(first.orchestratord.url.rpartition(":")[2])))
    ended(second.orchestratord, job_id)
    with second.events(job_id) as events:
        assert figures(events.rest()) == EXPECTED
    assert len(worker.executions) == 2
    assert {name: worker.executions[1].body[name] for name in SAMPLING} == SAMPLING


def test_bad_sampling_is_refused_at_the_door(bench: Bench) -> None:
    """Without asking a worker, all problems at once."""
    answer = bench.orchestratord.post("/v2/tasks", bench.body(logprobs=99, logit_bias={"x": 1}, presence_penalty=3))
    assert answer.status == 400
    problems = {problem["field"] for problem in answer.json["error"]["details"]["problems"]}
    assert problems == {"logprobs", "logit_bias", "presence_penalty"}


def test_a_job_follows_its_prefix(bench: Bench) -> None:
    """The worker whose heartbeat names the beginning gets the job, and explain says why."""
    messages = [{"role": "system", "content": DOCUMENT}, {"role": "user", "content": "Why?"}]
    turns = [Message(**message) for message in messages]
    one, two = bench.worker(), bench.worker()
    two.prefixes = prefix.digests(None, turns[:1])
    bench.wait_for_heartbeats()
    fields = {"prompt": None, "messages": messages, "max_tokens": 1}
    for _ in range(3):
        job_id = bench.submit(**fields)
        assert ended(bench.orchestratord, job_id)["worker_id"] == two.worker_id
        decisions = bench.orchestratord.get(f"/v2/tasks/{job_id}/explain").json["decisions"]
        [placed] = [decision for decision in decisions if decision["kind"] == "placed"]
        assert placed["note"] == "attempt 1, holds 1 of 2 prefix parts" and one.worker_id in placed["refused"]
    other = ended(bench.orchestratord, bench.submit(max_tokens=1))
    assert other["worker_id"] == one.worker_id


def test_a_waiting_job_follows_its_prefix_after_a_restart(cluster: Cluster, benches: Callable[[Daemon], Bench]) -> None:
    """The digests are computed anew from the stored prompt, and are in no file."""
    first = benches(cluster.orchestratord())
    pool = {"id": "127.0.0.1", "draining": True}
    assert first.orchestratord.post("/v2/pools", pool).status == 201
    job_id = str(first.orchestratord.post("/v2/tasks", {"prompt": DOCUMENT + PROMPT, "max_tokens": 1}).json["job_id"])
    digests = prefix.digests(DOCUMENT + PROMPT, ())
    first.orchestratord.kill()
    stored = b"".join(path.read_bytes() for path in cluster.home.rglob("*") if path.is_file())
    assert digests[0].encode() not in stored
    second = benches(cluster.orchestratord())
    for held in ((), digests[:2]):
        second.worker(prefixes=held)
    second.wait_for_heartbeats()
    assert second.orchestratord.post("/v2/pools", {**pool, "draining": False}).status == 201
    assert ended(second.orchestratord, job_id)["worker_id"] == second.workers[1].worker_id
