"""202 means committed: kill -9 loses no accepted job, finishes none twice, and prompts do not outlive their job."""

from __future__ import annotations

import http.client
import resource
from collections.abc import Callable

import pytest
from daemons import Cluster, Daemon, ended, environment, program, start, stream, text_of, until
from fakes import expected_text
from job_bench import PROMPT, Bench


def port_of(daemon: Daemon) -> int:
    """The port, so that a restarted orchestratord is found by the same workers."""
    return int(daemon.url.rpartition(":")[2])


@pytest.mark.parametrize("count", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_kill_9_with_queued_and_running_jobs(cluster: Cluster, benches: Callable[[Daemon], Bench], count: int) -> None:
    """All accepted jobs complete after kill -9 and restart, each with one terminal event and the right text."""
    bench = benches(cluster.orchestratord())
    worker = bench.worker(slots=4, token_delay_s=0.02)
    jobs = [bench.submit(max_tokens=6, priority="batch") for _ in range(count)]
    until(lambda: len(worker.executions) >= 4, "some run")
    port = port_of(bench.orchestratord)
    bench.orchestratord.kill()
    worker.token_delay_s = 0.0
    again = cluster.orchestratord(port=port)
    for job_id in jobs:
        job = ended(again, job_id, 60)
        assert job["status"] == "completed", job
        with stream(again.url, "GET", f"/v2/tasks/{job_id}/events") as events:
            seen = events.rest()
        assert [event.id for event in seen if event.id is not None] == list(range(9))
        assert sum(event.data["type"] in ("end", "error") for event in seen) == 1
        assert job["text"] == expected_text(PROMPT, 6)


def test_jobs_wait_for_a_worker_over_restarts(cluster: Cluster, benches: Callable[[Daemon], Bench]) -> None:
    """A job accepted without any worker runs when one comes, two restarts later; its place is kept."""
    first = cluster.orchestratord()
    bench = benches(first)
    jobs = [first.post("/v2/tasks", {"prompt": PROMPT, "max_tokens": 2}).json["job_id"] for _ in range(3)]
    assert first.stop() == 0
    second = cluster.orchestratord()
    assert [second.get(f"/v2/tasks/{job_id}").json["queue_position"] for job_id in jobs] == [0, 1, 2]
    second.kill()
    bench.orchestratord = cluster.orchestratord()
    bench.worker()
    for job_id in jobs:
        assert ended(bench.orchestratord, job_id)["text"] == expected_text(PROMPT, 2)


def test_nothing_is_readable_by_others(cluster: Cluster, benches: Callable[[Daemon], Bench]) -> None:
    """State directory 0700; database, segments, token and record 0600."""
    bench = benches(cluster.orchestratord())
    bench.worker()
    ended(bench.orchestratord, bench.submit(max_tokens=2))
    assert cluster.state.stat().st_mode & 0o777 == 0o700
    for path in cluster.state.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_the_prompt_goes_when_the_job_ends(cluster: Cluster, benches: Callable[[Daemon], Bench]) -> None:
    """Soon after the end no file of the home holds the prompt, though orchestratord runs; no log line ever did."""
    bench = benches(cluster.orchestratord("--log-level", "debug", "--output-kept-s", "1"))
    bench.worker()
    secret = "the-password-is-swordfish"
    job_id = bench.submit(prompt=secret, max_tokens=2)
    ended(bench.orchestratord, job_id)

    def gone() -> bool:
        files = [path for path in cluster.home.rglob("*") if path.is_file()]
        return not any(secret.encode() in path.read_bytes() for path in files)

    until(gone, "the prompt is gone")


def test_a_full_disk_turns_new_jobs_away(cluster: Cluster, benches: Callable[[Daemon], Bench]) -> None:
    """No file may grow: 503 for new jobs, running streams go on; their ends are told once they can be stored."""
    bench = benches(cluster.orchestratord())
    bench.worker(token_delay_s=0.02)
    daemon = bench.orchestratord
    key = {"idempotency_key": "asked-again", "max_tokens": 2}
    with bench.stream(max_tokens=30) as events:
        seen = events.take(3)
        first = seen[0].data["job_id"]
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        for _ in range(2):
            refused = daemon.post("/v2/tasks", bench.body(**key))
            assert (refused.status, refused.code) == (503, "STORAGE_UNAVAILABLE")
            assert "retry-after" in refused.headers
        seen += events.take(27)
        until(lambda: daemon.get(f"/v2/tasks/{first}").status == 503, "its end is held back")
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        seen += events.rest()
    assert text_of(seen) == expected_text(PROMPT, 30) and seen[-1].data["type"] == "end"
    assert bench.job(first)["status"] == "completed"
    again = until(lambda: daemon.post("/v2/tasks", bench.body(**key)).json.get("job_id"), "room")
    assert ended(daemon, again)["status"] == "completed"
    segment = cluster.state / "segments" / f"{first}.frames"
    until(lambda: segment.read_bytes().count(b"\n\n") == 31, "what was refused is written")
    daemon.kill()
    shown = cluster.orchestratord().get(f"/v2/tasks/{first}").json
    assert (shown["status"], shown["text"]) == ("completed", expected_text(PROMPT, 30))


def test_an_end_that_was_not_stored_was_not_told(cluster: Cluster, benches: Callable[[Daemon], Bench]) -> None:
    """The disk refuses the last record, then kill -9: no client saw an end; the job ends after the restart."""
    bench = benches(cluster.orchestratord())
    bench.worker(token_delay_s=0.02)
    daemon = bench.orchestratord
    with bench.stream(max_tokens=20, detach=True) as events:
        seen = events.take(3)
        job_id = seen[0].data["job_id"]
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        seen += events.take(17)
        until(lambda: daemon.get(f"/v2/tasks/{job_id}").status == 503, "its end is held back")
        daemon.kill()
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            seen += events.rest()
    assert not any(event.data["type"] in ("end", "error") for event in seen)
    bench.orchestratord = cluster.orchestratord(port=port_of(daemon))
    assert ended(bench.orchestratord, job_id)["text"] == expected_text(PROMPT, 20)


def test_a_damaged_segment_costs_only_its_tail(cluster: Cluster, benches: Callable[[Daemon], Bench]) -> None:
    """Rubbish in the segment of a running job: orchestratord starts, and the job goes on to the right text."""
    bench = benches(cluster.orchestratord())
    worker = bench.worker(token_delay_s=0.02)
    with bench.stream(max_tokens=40, detach=True) as events:
        job_id = events.take(9)[0].data["job_id"]
    port = port_of(bench.orchestratord)
    bench.orchestratord.kill()
    worker.token_delay_s = 0.0
    segment = cluster.state / "segments" / f"{job_id}.frames"
    data = bytearray(segment.read_bytes())
    place = data.index(b"id: 6\n")
    data[place : place + 30] = bytes(30)
    segment.write_bytes(data)
    bench.orchestratord = cluster.orchestratord(port=port)
    assert ended(bench.orchestratord, job_id)["text"] == expected_text(PROMPT, 40)
    assert "damaged" in bench.orchestratord.log


def test_an_unusable_state_directory_is_one_clear_line(cluster: Cluster) -> None:
    """Something in the way of what has to be written there: exit 1 and one line, no traceback."""
    for name in ("segments", "orchestratord.json"):
        state = cluster.home / f"without-{name}"
        state.mkdir()
        (state / name).mkdir() if name == "orchestratord.json" else (state / name).write_text("in the way")
        argv = [*program("orchestratord"), "--port", "0", "--state", str(state)]
        daemon = start(argv, environment(cluster.home), cluster.home / f"{name}.log")
        cluster.daemons.append(daemon)
        assert daemon.process.wait(20) == 1
        assert name in daemon.log and "Traceback" not in daemon.log


def test_a_damaged_database_is_set_aside(cluster: Cluster) -> None:
    """A database that is no database is renamed, named in the log, and a new one is started."""
    cluster.state.mkdir()
    (cluster.state / "orchestratord.sqlite").write_bytes(b"this is not a database" * 400)
    daemon = cluster.orchestratord()
    assert daemon.get("/health").status == 200
    assert len(list(cluster.state.glob("orchestratord.sqlite.corrupt-*"))) == 1
    assert "damaged" in daemon.log


def test_a_second_orchestratord_is_refused(cluster: Cluster) -> None:
    """Two on one state directory: the second says who runs there and exits 1."""
    first = cluster.orchestratord()
    argv = [*program("orchestratord"), "--port", "0", "--state", str(cluster.state)]
    second = start(argv, environment(cluster.home), cluster.home / "second.log")
    cluster.daemons.append(second)
    assert second.process.wait(20) == 1
    assert first.url in second.log and len(second.log.splitlines()) == 1


def test_a_taken_port_is_one_clear_line(cluster: Cluster) -> None:
    """The port is in use: one line that says how to choose another."""
    first = cluster.orchestratord()
    argv = [*program("orchestratord"), "--port", str(port_of(first)), "--state", str(cluster.home / "other")]
    second = start(argv, environment(cluster.home), cluster.home / "second.log")
    cluster.daemons.append(second)
    assert second.process.wait(20) == 1
    assert "in use" in second.log and len(second.log.splitlines()) == 1


def test_a_second_signal_stops_at_once(cluster: Cluster, benches: Callable[[Daemon], Bench]) -> None:
    """Two SIGTERM: no waiting for the running job, which continues after the next start."""
    bench = benches(cluster.orchestratord())
    worker = bench.worker(token_delay_s=30)
    job_id = bench.submit(max_tokens=3)
    until(lambda: worker.executions and worker.executions[0].frames, "it runs")
    bench.orchestratord.process.terminate()
    until(lambda: bench.orchestratord.get("/readyz").status == 503, "draining")
    bench.orchestratord.process.terminate()
    assert bench.orchestratord.process.wait(5) == 0
    worker.token_delay_s = 0.0
    bench.orchestratord = cluster.orchestratord(port=port_of(bench.orchestratord))
    assert ended(bench.orchestratord, job_id)["text"] == expected_text(PROMPT, 3)


def test_sigterm_lets_running_jobs_finish(cluster: Cluster, benches: Callable[[Daemon], Bench]) -> None:
    """SIGTERM: nothing new is taken, the running stream ends whole, exit 0, the record file is gone."""
    bench = benches(cluster.orchestratord())
    bench.worker(token_delay_s=0.05)
    with bench.stream(max_tokens=10) as events:
        events.take(1)
        bench.orchestratord.process.terminate()
        until(lambda: bench.orchestratord.get("/readyz").status == 503, "draining")
        refused = bench.orchestratord.post("/v2/tasks", bench.body())
        assert (refused.status, refused.code) == (503, "DRAINING")
        assert events.rest()[-1].data["type"] == "end"
    assert bench.orchestratord.process.wait(10) == 0
    assert not (cluster.state / "orchestratord.json").exists()
