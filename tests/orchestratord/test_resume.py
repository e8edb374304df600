"""Last-Event-ID: exactly the missing frames, whether the job runs, has ended, or orchestratord was killed meanwhile."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from daemons import Cluster, Daemon, ended, text_of, until
from fakes import expected_text
from job_bench import PROMPT, Bench

COUNT = 8
LAST = COUNT + 2


def numbered(events: list) -> list[tuple[int, str]]:
    """(id, type) of the events that have an id."""
    return [(event.id, event.data["type"]) for event in events if event.id is not None]


WHOLE = [(0, "queued"), (1, "started"), *((i + 2, "token") for i in range(COUNT)), (LAST, "end")]


def test_resume_of_an_ended_job_at_every_position(bench: Bench) -> None:
    """After the end, each Last-Event-ID gives exactly what is behind it; header and query alike."""
    bench.worker()
    job_id = bench.submit(max_tokens=COUNT)
    ended(bench.orchestratord, job_id)
    for after in [None, *range(LAST + 3)]:
        with bench.events(job_id, after) as events:
            assert numbered(events.rest()) == WHOLE[0 if after is None else after + 1 :]
    assert f"id: {LAST}" in bench.orchestratord.get(f"/v2/tasks/{job_id}/events?last_event_id=9").body.decode()


def test_resume_of_a_running_job_at_every_position(bench: Bench) -> None:
    """While the job runs, each Last-Event-ID gives what is there at once and the rest as it comes."""
    worker = bench.worker(token_delay_s=30)
    job_id = bench.submit(max_tokens=COUNT)
    until(lambda: worker.executions and worker.executions[0].frames == 1, "one frame")
    opened = [(after, bench.events(job_id, after)) for after in [None, *range(LAST + 1)]]
    readers = [(after, entry, entry.__enter__()) for after, entry in opened]
    bench.orchestratord.post(f"/v2/tasks/{job_id}/cancel")
    for after, entry, events in readers:
        seen = numbered(events.rest())
        start = 0 if after is None else after + 1
        whole = [(0, "queued"), (1, "started"), (2, "token"), (3, "end")]
        assert seen == whole[start:]
        entry.__exit__(None, None, None)


def test_a_bad_last_event_id_is_refused(bench: Bench) -> None:
    """Something that is no number is a 400, not a guess."""
    bench.worker()
    job_id = bench.submit(max_tokens=1)
    for value in ("x", "-1", "1.5", "9" * 30):
        answer = bench.orchestratord.get(f"/v2/tasks/{job_id}/events", headers={"Last-Event-ID": value})
        assert answer.status == 400, value


def test_many_readers_see_the_same(bench: Bench) -> None:
    """Any number of readers may follow one job."""
    bench.worker(token_delay_s=0.005)
    job_id = bench.submit(max_tokens=COUNT)
    opened = [bench.events(job_id) for _ in range(8)]
    for entry in opened:
        with entry as events:
            assert text_of(events.rest()) == expected_text(PROMPT, COUNT)


def test_kill_9_mid_stream_then_resume(cluster: Cluster, benches: Callable[[Daemon], Bench]) -> None:
    """After kill -9 and a restart the client gets exactly the missing frames, and the worker is asked to continue."""
    first = benches(cluster.orchestratord())
    worker = first.worker(token_delay_s=0.02)
    with first.stream(max_tokens=40) as events:
        seen = events.take(5)
        job_id = seen[0].data["job_id"]
        port = int(first.orchestratord.url.rpartition(":")[2])
        first.orchestratord.kill()
    seen_id = max(event.id for event in seen if event.id is not None)
    until(lambda: worker.executions[0].ended, "the worker noticed")
    second = benches(cluster.orchestratord(port=port))
    second.wait_for(worker)
    with second.events(job_id, seen_id) as events:
        more = events.rest()
    both = [event for event in seen + more if event.id is not None]
    assert [event.id for event in both] == list(range(43))
    assert text_of(both) == expected_text(PROMPT, 40)
    assert more[-1].data["type"] == "end"
    resumed = worker.executions[1].body["resume"]
    assert resumed["token_ids"] == list(range(resumed["next_i"])) and resumed["next_i"] >= 5
    with second.events(job_id) as events:
        assert [event.id for event in events.rest() if event.id is not None] == list(range(43))


def test_expired_output_is_a_clear_error(cluster: Cluster, benches: Callable[[Daemon], Bench]) -> None:
    """Once the output is gone, events answer 410 and the record stays."""
    bench = benches(cluster.orchestratord("--output-kept-s", "0.2"))
    bench.worker()
    job_id = bench.submit(max_tokens=2)
    ended(bench.orchestratord, job_id)
    path = f"/v2/tasks/{job_id}/events"

    def expired() -> bool:
        try:
            answer = bench.orchestratord.get(path)
        except (http.client.HTTPException, ConnectionError):  # it expired in the middle of an answer
            return False
        assert answer.status == 410 or answer.body.count(b'"type":"token"') == 2, answer.body
        return answer.status == 410

    until(expired, "the output expired")
    assert bench.orchestratord.get(path).code == "OUTPUT_EXPIRED"
    job = bench.job(job_id)
    assert job["status"] == "completed" and job["text"] is None
    assert not list((cluster.state / "segments").iterdir())


def test_a_slow_reader_of_an_expired_output_is_cut(cluster: Cluster, benches: Callable[[Daemon], Bench]) -> None:
    """Its stream breaks off, so that it asks again and is told; it neither hangs nor seems whole."""
    bench = benches(cluster.orchestratord("--output-kept-s", "0.3"))
    bench.worker(context_length=1_000_000)
    job_id = bench.submit(max_tokens=30_000)
    parts = urlsplit(bench.orchestratord.url)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(20)
        slow.connect((parts.hostname, parts.port))
        slow.sendall(f"GET /v2/tasks/{job_id}/events HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        until(lambda: bench.orchestratord.get("/v2/tasks?status=completed").json["tasks"], "the job has ended")
        until(lambda: not list((cluster.state / "segments").iterdir()), "the output expired")
        received = b""
        try:
            while chunk := slow.recv(65536):
                received += chunk
        except ConnectionResetError:
            pass
    assert b'"type":"token"' in received and b'"type":"end"' not in received


def test_keys_of_ended_jobs_outlive_kill_9(cluster: Cluster, benches: Callable[[Daemon], Bench]) -> None:
    """A POST that is repeated after a restart gives the job that has ended, and runs nothing."""
    bench = benches(cluster.orchestratord())
    worker = bench.worker()
    task = {"max_tokens": 3, "idempotency_key": "only-once"}
    job_id = bench.submit(**task)
    ended(bench.orchestratord, job_id)
    port = int(bench.orchestratord.url.rpartition(":")[2])
    bench.orchestratord.kill()
    bench.orchestratord = cluster.orchestratord(port=port)
    bench.wait_for(worker)
    again = bench.orchestratord.post("/v2/tasks", bench.body(**task))
    assert (again.status, again.json["job_id"]) == (200, job_id)
    with bench.stream(**task) as events:
        assert text_of(events.rest()) == expected_text(PROMPT, 3)
    assert len(worker.executions) == 1
