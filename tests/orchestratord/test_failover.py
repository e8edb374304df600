"""Workers that fail: the client sees one unbroken stream, or one clear error."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from daemons import Cluster, Daemon, ended, text_of, until
from fakes import Fault, Trouble, expected_text
from job_bench import PROMPT, Bench

COUNT = 12


def whole(bench: Bench) -> list[dict[str, object]]:
    """One streamed job; its events after checking ids, order and text."""
    with bench.stream(max_tokens=COUNT) as events:
        seen = events.rest()
    numbered = [event for event in seen if event.id is not None]
    assert [event.id for event in numbered] == list(range(len(numbered)))
    assert sum(event.data["type"] == "started" for event in seen) == 1
    assert text_of(seen) == expected_text(PROMPT, COUNT)
    return [event.data for event in seen]


@pytest.mark.parametrize("after", [0, 1, COUNT // 2, COUNT - 1])
@pytest.mark.parametrize("fault", [Fault.DIE, Fault.SILENT_END, Fault.GAP, Fault.GARBAGE, Fault.ERROR])
def test_a_broken_attempt_is_continued(bench: Bench, fault: Fault, after: int) -> None:
    """Wherever an attempt breaks off, a worker continues: one started, no gap, no repeat, the same text."""
    first_only = [Trouble(fault, after)]
    both = [bench.worker(troubles=first_only), bench.worker(troubles=first_only)]
    seen = whole(bench)
    assert seen[-1]["type"] == "end" and seen[-1]["tokens_out"] == COUNT
    runs = sorted((run for worker in both for run in worker.executions), key=lambda run: len(run.body["job_id"]))
    assert len(runs) == 2
    second = runs[1].body
    assert second["job_id"] == runs[0].body["job_id"] + ".a2"
    assert second["seed"] == runs[0].body["seed"]
    next_i = second.get("resume", {"next_i": 0})["next_i"]
    # A reset may swallow frames that were on their way; they are generated again.
    assert next_i <= after if fault is Fault.DIE else next_i == after


def test_repeated_frames_are_dropped(bench: Bench) -> None:
    """A worker that sends every frame twice makes no difference to the client."""
    bench.worker(troubles=[Trouble(Fault.REPEAT)])
    assert whole(bench)[-1]["type"] == "end"


def test_a_busy_worker_is_tried_again(bench: Bench) -> None:
    """503 from the worker is no failure of the job."""
    worker = bench.worker(troubles=[Trouble(Fault.BUSY)])
    assert whole(bench)[-1]["type"] == "end"
    assert len(worker.executions) == 2


def test_a_rejected_job_fails_with_the_workers_code(bench: Bench) -> None:
    """A 4xx of the worker would be the same anywhere: no second attempt, the worker's own code."""
    worker = bench.worker(troubles=[Trouble(Fault.REJECT)])
    answer = bench.orchestratord.post("/v2/tasks", bench.body(wait=True))
    assert answer.code == "CONTEXT_LENGTH_EXCEEDED" and answer.status == 400
    assert len(worker.executions) == 1


def test_a_stalled_worker_is_given_up(cluster: Cluster, benches: Callable[[Daemon], Bench]) -> None:
    """No token within the stall time: the job goes on elsewhere."""
    bench = benches(cluster.orchestratord("--stall-timeout-s", "0.3", "--first-token-timeout-s", "0.3"))
    for after in (0, 3):
        first_only = [Trouble(Fault.STALL, after)]
        bench.worker(troubles=first_only)
        bench.worker(troubles=first_only)
        assert whole(bench)[-1]["type"] == "end"


def test_a_dead_worker_is_noticed_at_once(bench: Bench) -> None:
    """A worker that dies mid-stream is noticed by its broken stream, not by its lease: within a second."""
    both = [bench.worker(token_delay_s=0.05), bench.worker(token_delay_s=0.05)]
    with bench.stream(max_tokens=COUNT) as events:
        seen = events.take(3)
        victim = next(worker for worker in both if worker.executions)
        began = time.monotonic()
        victim.die()
        seen += events.take(2)
        assert time.monotonic() - began < 2.0
        seen += events.rest()
    assert text_of(seen) == expected_text(PROMPT, COUNT)


@pytest.mark.slow
def test_a_silent_worker_loses_its_lease(bench: Bench) -> None:
    """Without heartbeats a worker is lost within 8 s, and its job goes on elsewhere without a seam."""
    silent = bench.worker(troubles=[Trouble(Fault.STALL, 2)])
    job_id = bench.submit(max_tokens=COUNT)
    until(lambda: silent.executions and silent.executions[0].frames == 2, "two frames")
    silent.silence()
    began = time.monotonic()
    path = f"/v2/workers/{silent.worker_id}"
    until(lambda: bench.orchestratord.get(path).json["state"] == "lost", "the worker is lost", 9.0)
    assert time.monotonic() - began < 8.0
    bench.worker()
    assert ended(bench.orchestratord, job_id)["text"] == expected_text(PROMPT, COUNT)


def test_every_attempt_fails(bench: Bench) -> None:
    """When no worker can bring the job to its end, the stream ends in exactly one error."""
    bench.worker(troubles=[Trouble(Fault.ERROR, 0)] * 50)
    with bench.stream(max_tokens=COUNT) as events:
        seen = events.rest()
    terminal = [event.data for event in seen if event.data["type"] in ("end", "error")]
    assert len(terminal) == 1 and terminal[0]["type"] == "error"
    assert seen[-1].data is terminal[0]
