"""Cancelling in every state, and clients that hang up."""

from __future__ import annotations

import time
from collections.abc import Callable

from daemons import Cluster, Daemon, call, ended, text_of, until
from fakes import Fault, Trouble, expected_text
from job_bench import PROMPT, Bench


def cancel(bench: Bench, job_id: str, method: str = "POST") -> tuple[int, str]:
    """Cancel by either way; status code and shown status."""
    tail = "/cancel" if method == "POST" else ""
    answer = call(bench.orchestratord.url, method, f"/v2/tasks/{job_id}{tail}")
    return answer.status, answer.json["status"]


def test_a_queued_job_is_cancelled_at_once(bench: Bench) -> None:
    """Queued: 202, the stream ends with end/CANCELLED, again: 200; POST and DELETE alike."""
    worker = bench.worker(slots=1, token_delay_s=30)
    running = bench.submit(max_tokens=5)
    until(lambda: worker.executions, "the slot is taken")
    for method in ("POST", "DELETE"):
        job_id = bench.submit()
        with bench.events(job_id) as events:
            assert cancel(bench, job_id, method)[0] == 202
            seen = [event.data for event in events.rest()]
        assert seen[0]["type"] == "queued" and seen[-1]["stop_reason"] == "CANCELLED"
        assert cancel(bench, job_id, method) == (200, "cancelled")
    cancel(bench, running)


def test_a_running_job_frees_its_slot(bench: Bench) -> None:
    """Running: the worker is told, no token follows, the stream ends with end/CANCELLED."""
    worker = bench.worker(token_delay_s=0.02)
    with bench.stream(max_tokens=1000) as events:
        seen = events.take(3)
        job_id = seen[0].data["job_id"]
        assert cancel(bench, job_id)[0] == 202
        seen += events.rest()
    assert seen[-1].data["type"] == "end" and seen[-1].data["stop_reason"] == "CANCELLED"
    assert worker.cancels == [job_id]
    until(lambda: worker.executions[0].ended, "the slot is free")
    assert cancel(bench, job_id) == (200, "cancelled")


def test_a_job_whose_worker_never_answers_is_cancelled_at_once(bench: Bench) -> None:
    """Dispatched but not answered yet: the stream ends with end/CANCELLED without waiting for the worker."""
    worker = bench.worker(troubles=[Trouble(Fault.HANG)])
    with bench.stream() as events:
        job_id = events.take(1, "queued")[0].data["job_id"]
        until(lambda: worker.executions, "dispatched")
        began = time.monotonic()
        assert cancel(bench, job_id)[0] == 202
        assert events.rest()[-1].data["stop_reason"] == "CANCELLED"
        assert time.monotonic() - began < 2.0


def test_a_finished_job_stays_finished(bench: Bench) -> None:
    """Cancelling after the end changes nothing."""
    bench.worker()
    job_id = bench.submit(max_tokens=1)
    ended(bench.orchestratord, job_id)
    assert cancel(bench, job_id) == (200, "completed")


def test_dropping_a_post_stream_cancels(bench: Bench) -> None:
    """The client of a POST stream hangs up: its job is cancelled and the slot is free."""
    worker = bench.worker(token_delay_s=0.02)
    with bench.stream(max_tokens=1000) as events:
        job_id = events.take(2)[0].data["job_id"]
    assert ended(bench.orchestratord, job_id)["status"] == "cancelled"
    until(lambda: worker.executions[0].ended, "the slot is free")


def test_dropping_while_queued_cancels(bench: Bench) -> None:
    """The same while the job waits."""
    worker = bench.worker(slots=1, token_delay_s=30)
    running = bench.submit(max_tokens=5)
    until(lambda: worker.executions, "the slot is taken")
    with bench.stream() as events:
        job_id = events.take(1, "queued")[0].data["job_id"]
    assert ended(bench.orchestratord, job_id)["status"] == "cancelled"
    cancel(bench, running)


def test_detach_and_events_never_cancel(bench: Bench) -> None:
    """`detach` lets the job live on; dropping `/events` does too."""
    bench.worker(token_delay_s=0.01)
    with bench.stream(max_tokens=30, detach=True) as events:
        detached = events.take(1)[0].data["job_id"]
    watched = bench.submit(max_tokens=30)
    with bench.events(watched) as events:
        events.take(1)
    assert ended(bench.orchestratord, detached)["status"] == "completed"
    assert ended(bench.orchestratord, watched)["status"] == "completed"


def test_dropping_a_wait_cancels(bench: Bench) -> None:
    """A client that gives up waiting does not leave work behind."""
    worker = bench.worker(token_delay_s=0.02)
    try:
        call(bench.orchestratord.url, "POST", "/v2/tasks", bench.body(max_tokens=1000, wait=True), timeout_s=0.3)
    except TimeoutError:
        pass
    until(lambda: worker.executions and worker.executions[0].ended, "the slot is free")
    job_id = worker.executions[0].body["job_id"]
    assert ended(bench.orchestratord, job_id)["status"] == "cancelled"


def test_timeouts_end_with_an_error(bench: Bench) -> None:
    """timeout_ms ends a running job with error/TIMEOUT."""
    bench.worker(token_delay_s=0.05)
    with bench.stream(max_tokens=1000, timeout_ms=300) as events:
        last = events.rest()[-1].data
    assert last["type"] == "error" and last["code"] == "TIMEOUT"


def test_a_job_that_was_asked_for_again_outlives_the_first_connection(bench: Bench) -> None:
    """Two streams of one idempotency key: dropping one changes nothing, dropping the last cancels."""
    bench.worker(token_delay_s=0.02)
    task = {"max_tokens": 1000, "idempotency_key": f"twice-{bench.model}"}
    with bench.stream(**task) as second:
        with bench.stream(**task) as first:
            job_id = first.take(2)[0].data["job_id"]
        assert second.take(30)[0].data["job_id"] == job_id
        assert bench.job(job_id)["status"] == "running"
    assert ended(bench.orchestratord, job_id)["status"] == "cancelled"


def test_asking_again_within_the_grace_time_keeps_the_job(cluster: Cluster, benches: Callable[[Daemon], Bench]) -> None:
    """A POST that comes back with the same key stops the grace bell: the job is streamed to its end."""
    bench = benches(cluster.orchestratord("--disconnect-grace-s", "1"))
    worker = bench.worker(token_delay_s=0.05)
    task = {"max_tokens": 40, "idempotency_key": "once-more"}
    with bench.stream(**task) as events:
        events.take(2)
    with bench.stream(**task) as events:
        seen = events.rest()
    assert text_of(seen) == expected_text(PROMPT, 40) and seen[-1].data["stop_reason"] == "MAX_TOKENS"
    assert len(worker.executions) == 1
