"""`worker list|stop|stop-all|cleanup|logs` on records of real processes."""

from __future__ import annotations

import http.server
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llorch.base.home import Home, find_home
from llorch.host import process
from llorch.pool import records
from llorch.pool.records import WorkerRecord
from tests.daemons import until
from tests.pool.pools import Pool

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"


@pytest.fixture
def home(pool: Pool) -> Iterator[Home]:
    """The pool's home, with an id; whatever a test leaves running is killed."""
    found = find_home(pool.env)
    found.workers_dir.mkdir(parents=True)
    records.home_id(found)
    yield found
    for record in records.load_all(found):
        process.terminate(record.pid, record.start_time, grace_s=0)


def start(home: Home, worker_id: str = "worker-cpu-1", program: str = SLEEPER, port: int = 1) -> WorkerRecord:
    """A real detached process, recorded as a worker."""
    log = records.log_path(home, worker_id)
    env = {records.HOME_ID_VARIABLE: records.home_id(home)}
    spawned = process.spawn_detached([sys.executable, "-c", program], log_path=log, env=env)
    until(lambda: b"up" in log.read_bytes(), "the process is up")
    url, at = f"http://127.0.0.1:{port}", "2025-10-09T14:30:00.000Z"
    record = WorkerRecord(
        worker_id, spawned.pid, spawned.start_time, port, url, "demo", "cpu", None, str(log), env["LLORCH_HOME_ID"], at
    )
    records.save(home, record)
    return record


@pytest.fixture
def healthy() -> Iterator[int]:
    """The port of a server that answers /health as a worker does."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"status":"healthy","vram_bytes":7}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_each_worker_has_its_status(pool: Pool, home: Home, healthy: int) -> None:
    """Running answers, Loading does not yet, Silent said ready once, Dead has no process."""
    start(home, "worker-cpu-running", port=healthy)
    start(home, "worker-cpu-loading")
    start(home, "worker-cpu-silent")
    records.status_path(home, "worker-cpu-silent").write_text('{"state": "ready"}')
    dead = start(home, "worker-cpu-dead")
    os.kill(dead.pid, signal.SIGKILL)
    os.waitpid(dead.pid, 0)
    listed = pool.ok("worker", "list", "--json").json()["workers"]
    assert {row["worker_id"].rsplit("-", 1)[-1]: row["status"].lower() for row in listed} == {
        name: name for name in ("running", "loading", "silent", "dead")
    }
    assert next(row for row in listed if row["status"] == "Running")["health"]["vram_bytes"] == 7
    lines = pool.ok("worker", "list").out.splitlines()
    assert lines[2] == "ID                                   Backend  Model      Port   PID    Status"
    assert lines[-1] == "Total workers: 4"


def test_stopping_ends_the_process_and_its_record(pool: Pool, home: Home) -> None:
    """SIGTERM is enough for one that listens to it; record and token are gone, the log stays."""
    record = start(home)
    records.token_path(home, record.worker_id).write_text("secret")
    assert pool.ok("worker", "stop", record.worker_id).out == f"Worker {record.worker_id} stopped\n"
    assert not record.is_alive()
    assert [path.name for path in home.workers_dir.iterdir()] == ["worker-cpu-1.log"]


def test_a_stubborn_worker_is_killed_after_its_grace(pool: Pool, home: Home) -> None:
    """SIGKILL follows when SIGTERM does not help."""
    record = start(home, program=STUBBORN)
    assert "killed" in pool.ok("worker", "stop", record.worker_id, "--grace", "0.2").out
    assert not record.is_alive()


def test_a_reused_pid_is_never_signalled(pool: Pool, home: Home) -> None:
    """A record whose start time does not match means a dead worker, whoever has its pid now."""
    stranger = start(home, "worker-cpu-stranger")
    records.remove(home, stranger.worker_id)
    records.save(home, replace(stranger, worker_id="worker-cpu-old", start_time=stranger.start_time - 5))
    assert "not running" in pool.ok("worker", "stop", "worker-cpu-old").out
    assert stranger.is_alive()
    process.terminate(stranger.pid, stranger.start_time, grace_s=0)


def test_stop_all_leaves_nothing(pool: Pool, home: Home) -> None:
    """No process, no record, no token file; a second time there is nothing to do."""
    found = [start(home, f"worker-cpu-{n}") for n in range(3)]
    records.token_path(home, "worker-cpu-1").write_text("secret")
    done = pool.ok("worker", "stop-all", "--json").json()
    assert sorted(row["worker_id"] for row in done["stopped"]) == [record.worker_id for record in found]
    assert not any(record.is_alive() for record in found)
    assert {path.suffix for path in home.workers_dir.iterdir()} == {".log"}
    assert pool.ok("worker", "stop-all").out == "No workers\n"


def test_a_worker_is_named_by_a_beginning_of_its_id(pool: Pool, home: Home) -> None:
    """An unambiguous beginning is enough; an unknown id is exit 4 with the nearest one."""
    start(home, "worker-cpu-abc123")
    start(home, "worker-cpu-abd456")
    assert pool.run("worker", "stop", "worker-cpu-ab").code == 4
    assert "did you mean 'worker-cpu-abc123'" in pool.run("worker", "stop", "worker-cpu-abx123").err
    pool.ok("worker", "stop", "worker-cpu-abc")


def test_cleanup_removes_the_dead_and_reports_strays(pool: Pool, home: Home) -> None:
    """Dead records go, damaged ones are set aside, a live process of this home without a record is reported only."""
    dead, stray, kept = start(home, "worker-cpu-dead"), start(home, "worker-cpu-stray"), start(home, "worker-cpu-kept")
    os.kill(dead.pid, signal.SIGKILL)
    os.waitpid(dead.pid, 0)
    records.remove(home, stray.worker_id)
    records.token_path(home, stray.worker_id).write_text("secret")
    (home.workers_dir / "worker-cpu-odd.json").write_text("{")
    ran = pool.run("worker", "cleanup", "--json")
    assert ran.code == 1
    done = ran.json()
    assert done["removed"] == ["worker-cpu-dead"]
    assert [row["pid"] for row in done["strays"]] == [stray.pid]
    assert len(done["damaged"]) == 1
    assert stray.is_alive()
    assert kept.is_alive()
    assert not records.token_path(home, stray.worker_id).exists()
    process.terminate(stray.pid, stray.start_time, grace_s=0)
    assert pool.ok("worker", "cleanup").out == "Nothing to clean up\n"


def test_logs_show_the_end_and_follow(pool: Pool, home: Home) -> None:
    """-n limits the lines, -f ends when the worker does and has printed everything."""
    program = "import sys\nfor n in range(200): print('line', n)\nprint('up', flush=True)\ninput()\nprint('last words')"
    record = start(home, program=program.replace("input()", "import time; time.sleep(0.8)"))
    assert pool.ok("worker", "logs", record.worker_id, "-n", "2").out == "line 199\nup\n"
    assert pool.ok("worker", "logs", record.worker_id, "-f", "-n", "1").out == "up\nlast words\n"
    assert pool.ok("worker", "logs", record.worker_id, "-n", "1", "--json").json() == {"line": "last words"}
    assert pool.run("worker", "logs", "worker-cpu-absent").code == 4


def test_the_log_of_a_stopped_worker_is_kept(pool: Pool, home: Home) -> None:
    """What a worker said can be read after it was stopped."""
    record = start(home)
    pool.ok("worker", "stop", record.worker_id)
    assert pool.ok("worker", "logs", record.worker_id).out == "up\n"


def test_status_tells_the_facts(pool: Pool, home: Home, healthy: int) -> None:
    """One JSON document for placement: devices, memory, disk, models, workers and backends with reasons."""
    start(home, port=healthy)
    facts = pool.ok("status", "--json").json()
    assert facts["protocol"] == 1
    assert facts["memory"]["total_bytes"] >= facts["memory"]["available_bytes"] > 0
    assert facts["disk"]["free_bytes"] > 0
    assert [model["id"] for model in facts["models"]] == ["demo"]
    assert [worker["status"] for worker in facts["workers"]] == ["Running"]
    assert {row["name"]: row["available"] == (row["reason"] is None) for row in facts["backends"]} == {
        "cpu": True, "cuda": True, "metal": True,
    }  # fmt: skip
    assert facts["gpus"] or facts["gpus_reason"]
    text = pool.ok("status").out
    assert "worker-cpu-1" in text
    assert "Backend metal" in text


def test_backends_have_reasons(pool: Pool) -> None:
    """cpu is available; the others are, or say why not."""
    rows = pool.ok("backends").out.splitlines()
    assert rows[0].split() == ["cpu", "yes"]
    assert all(len(row.split()) > 2 or "yes" in row for row in rows)


def test_homes_do_not_see_each_other(pool: Pool, home: Home, tmp_path: Path) -> None:
    """Another LLORCH_HOME lists and cleans up its own workers only."""
    record = start(home)
    other = str(tmp_path / "other")
    assert "Total workers: 0" in pool.ok("worker", "list", LLORCH_HOME=other).out
    pool.ok("worker", "cleanup", LLORCH_HOME=other)
    pool.ok("worker", "stop-all", LLORCH_HOME=other)
    assert record.is_alive()


ROTATING = """
import os, sys, time
from pathlib import Path
from llorch.base import log_file
path = Path(os.environ["LOG"])
log = log_file.LogFile(path, size_max_bytes=400, kept=3)
log.take_over()
os.write(2, b"up\\n")
while not (path.parent / "go").exists():
    time.sleep(0.01)
for number in range(int(os.environ["FIRST"]), int(os.environ["FIRST"]) + 60):
    os.write(2, f"line {number}\\n".encode())
    log.rotate_when_full()
"""


def test_logs_are_followed_through_rotation_and_restarts(pool: Pool, home: Home) -> None:
    """-F prints every line once and in order, while the file is rotated under it and the worker is started again."""
    log = records.log_path(home, "worker-cpu-1")

    def begin(first: int) -> None:
        env = {records.HOME_ID_VARIABLE: "x", "LOG": str(log), "FIRST": str(first)}
        spawned = process.spawn_detached([sys.executable, "-c", ROTATING], log_path=log, env=env)
        until(lambda: b"up" in log.read_bytes(), "the process is up")
        record = WorkerRecord(
            *("worker-cpu-1", spawned.pid, spawned.start_time, 1, "http://127.0.0.1:1", "demo", "cpu", None),
            *(str(log), "x", "2025-10-09T14:30:00.000Z"),
        )
        records.save(home, record)

    begin(0)
    follower = pool.popen("worker", "logs", "worker-cpu-1", "-F", "-n", "1")
    assert follower.stdout is not None
    assert follower.stdout.readline() == "up\n"
    go = home.workers_dir / "go"
    go.touch()
    read = [follower.stdout.readline().strip() for _ in range(60)]
    assert read == [f"line {number}" for number in range(60)]
    go.unlink()
    begin(60)
    assert follower.stdout.readline() == "up\n"
    go.touch()
    assert follower.stdout.readline() == "line 60\n"
    follower.send_signal(signal.SIGINT)
    follower.communicate(timeout=10)
    go.unlink()
