"""`llorch-pool doctor` and `cleanup`: what they find, what they mend, and whom they never touch."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llorch.base.home import Home, find_home
from llorch.host import disk, process
from llorch.pool import records
from llorch.pool.records import HOME_ID_VARIABLE, WorkerRecord
from tests.daemons import until
from tests.pool.pools import Pool

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"


@pytest.fixture
def home(pool: Pool) -> Iterator[Home]:
    """The pool's home, with an id and state of its own; whatever a test leaves running is killed."""
    pool.env["LLORCH_STATE"] = str(pool.home.parent / "state")
    pool.env["LLORCH_CACHE"] = str(pool.home.parent / "cache")
    found = find_home(pool.env)
    found.workers_dir.mkdir(parents=True, mode=0o700)
    records.home_id(found)
    yield found
    pool.run("cleanup", "--grace", "0")
    for record in records.load_all(found):
        process.terminate(record.pid, record.start_time, grace_s=0)


def start(home: Home, worker_id: str, home_id: str | None = None) -> WorkerRecord:
    """A real detached process that carries the home's id (or another), recorded as a worker."""
    log = records.log_path(home, worker_id)
    carried = home_id or records.home_id(home)
    spawned = process.spawn_detached([sys.executable, "-c", SLEEPER], log_path=log, env={HOME_ID_VARIABLE: carried})
    until(lambda: b"up" in log.read_bytes(), "the process is up")
    at = "2025-10-09T14:30:00.000Z"
    record = WorkerRecord(
        worker_id, spawned.pid, spawned.start_time, 1, "http://127.0.0.1:1", "demo", "cpu", None, str(log), carried, at
    )
    records.save(home, record)
    return record


def kill(record: WorkerRecord) -> None:
    os.kill(record.pid, signal.SIGKILL)
    os.waitpid(record.pid, 0)


def doctor(pool: Pool, *words: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and findings, without notes on other processes and backends of this machine."""
    ran = pool.run("doctor", "--json", *words)
    return ran.code, [row for row in ran.json()["findings"] if row["check"] not in ("others", "backends")]


def test_a_healthy_host_has_no_findings(pool: Pool, home: Home) -> None:
    """A live recorded worker is nothing to worry about; exit code 0."""
    start(home, "worker-cpu-fine")
    assert doctor(pool) == (0, [])
    assert pool.ok("cleanup").out == "All is well\n"


def test_orphans_are_reaped_and_others_are_not(pool: Pool, home: Home) -> None:
    """Who carries this home's id and has no record ends; a recorded worker and another home's process live on."""
    orphan, kept = start(home, "worker-cpu-orphan"), start(home, "worker-cpu-kept")
    stranger = start(home, "worker-cpu-stranger", home_id="0" * 32)
    for record in (orphan, stranger):
        records.remove(home, record.worker_id)
    code, (found,) = doctor(pool)
    assert (code, found["check"], found["pid"], found["mend"]) == (1, "orphans", orphan.pid, "llorch-pool doctor --fix")
    assert orphan.is_alive()
    code, (found,) = doctor(pool, "--fix", "--grace", "5")
    assert (code, found["fixed"]) == (0, True)
    assert [record.is_alive() for record in (orphan, kept, stranger)] == [False, True, True]
    assert doctor(pool) == (0, [])
    process.terminate(stranger.pid, stranger.start_time, grace_s=0)


def test_cleanup_reaps_and_a_dry_run_does_not(pool: Pool, home: Home) -> None:
    """`cleanup --dry-run` says what `cleanup` then does, to a stubborn process within its grace."""
    orphan = start(home, "worker-cpu-orphan")
    records.remove(home, orphan.worker_id)
    assert pool.run("cleanup", "--dry-run").code == 1
    assert orphan.is_alive()
    assert "fixed    orphans" in pool.ok("cleanup", "--grace", "0").out
    assert not orphan.is_alive()


def test_other_processes_of_llorch_are_listed(pool: Pool, home: Home, tmp_path: Path) -> None:
    """A worker of another home is a note with its pid, and the service that runs it; --fix leaves it alone."""
    env = {**os.environ, "LLORCH_SERVICE": "llorch-worker-x"}
    argv = [str(tmp_path / "llorch-9.9"), "-c", SLEEPER]
    other = subprocess.Popen(argv, executable=sys.executable, env=env, stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None and other.stdout.readline() == b"up\n"
        ran = pool.run("doctor", "--fix", "--json")
        (row,) = [row for row in ran.json()["findings"] if row["pid"] == other.pid]
        assert (row["check"], row["level"], row["fixed"]) == ("others", "note", False)
        assert "run by the service llorch-worker-x" in row["detail"]
        assert other.poll() is None
    finally:
        other.kill()
        other.communicate()


def test_left_overs_are_found_and_mended(pool: Pool, home: Home) -> None:
    """Dead and damaged records, files of nobody, an old half download, a damaged catalog: all gone after --fix."""
    dead = start(home, "worker-cpu-dead")
    kill(dead)
    (home.workers_dir / "worker-cpu-odd.json").write_text("{")
    (home.workers_dir / "worker-cpu-gone.token").write_text("secret")
    (home.workers_dir / "worker-cpu-gone.token").chmod(0o600)
    (home.workers_dir / ".x.json.tmp").write_text("")
    old, fresh = home.models_dir / "old" / ".partial", home.models_dir / "fresh" / ".partial"
    for folder in (old, fresh):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"x" * 1000)
    os.utime(old / "model.safetensors", (time.time() - 2 * 86400,) * 2)
    home.catalog_path.write_text("[")
    code, found = doctor(pool)
    assert code == 1
    assert {row["check"] for row in found} == {"records", "left-overs", "downloads", "catalog"}
    assert all(row["mend"] for row in found)
    code, found = doctor(pool, "--fix")
    assert code == 0
    assert [row["detail"].split()[3] for row in found if not row["fixed"]] == ["fresh"]
    assert not old.parent.exists() and (fresh / "model.safetensors").exists()
    assert not records.record_path(home, "worker-cpu-dead").exists()
    assert not list(home.workers_dir.glob("*.token"))
    assert len(list(home.root.glob("catalog.json.damaged-*"))) == 1


def test_a_running_download_is_left_alone(pool: Pool, home: Home) -> None:
    """While somebody holds the model's lock its half files are in use, however old."""
    partial = home.models_dir / "slow" / ".partial"
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_bytes(b"x")
    os.utime(partial / "model.safetensors", (time.time() - 2 * 86400,) * 2)
    with disk.locked(home.models_dir / ".slow.lock"):
        code, (found,) = doctor(pool, "--fix")
    assert (code, found["level"], "is being downloaded" in found["detail"]) == (0, "note", True)
    assert (partial / "model.safetensors").exists()


def test_secrets_that_others_can_read(pool: Pool, home: Home) -> None:
    """The worker token is made private again."""
    token = Path(pool.env["LLORCH_STATE"]) / "worker-token"
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(0o644)
    code, (found,) = doctor(pool)
    assert (code, found["check"], found["mend"]) == (1, "permissions", f"chmod 600 {token}")
    assert doctor(pool, "--fix")[0] == 0
    assert token.stat().st_mode & 0o777 == 0o600


def test_killed_unpackings(pool: Pool, home: Home) -> None:
    """What a killed unpacking left in the cache goes; one that is being filled stays."""
    cache = Path(pool.env["LLORCH_CACHE"])
    for name in (".tmp-torch-1234-abc", ".tmp-net-5678-def"):
        (cache / name).mkdir(parents=True)
    with disk.locked(cache / ".lock-net-5678"):
        code, (found,) = doctor(pool, "--fix")
    assert (code, found["fixed"], ".tmp-torch-1234-abc" in found["detail"]) == (0, True, True)
    assert (cache / ".tmp-net-5678-def").exists() and not (cache / ".tmp-torch-1234-abc").exists()


def test_clock_and_version_against_the_callers(pool: Pool, home: Home) -> None:
    """A skewed clock and another version are named, each with what mends it; the same ones are not."""
    code, found = doctor(pool, "--caller-clock", str(time.time() - 3600), "--caller-version", "9.9.9+abc")
    assert code == 1
    assert [row["check"] for row in found] == ["clock", "versions"]
    assert "ahead" in found[0]["detail"] and "9.9.9" in found[1]["detail"]
    version = pool.ok("self", "version", "--json").json()
    same = f"{version['version']}+{version['build_id']}"
    assert doctor(pool, "--caller-clock", str(time.time()), "--caller-version", same) == (0, [])


def test_temporary_files_of_killed_writers(pool: Pool, home: Home) -> None:
    """What a killed writer left goes at once; one that is being written stays, however slow its disk."""
    left, held = home.root / ".catalog.json.0a.tmp", home.root / ".measured.json.0b.tmp"
    for path in (left, held):
        path.write_text("{")
        os.utime(path, (time.time() - 60,) * 2)
    with open(held, "rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        code, (found,) = doctor(pool, "--fix")
    assert (code, found["check"], found["fixed"], str(left) in found["detail"]) == (0, "left-overs", True, True)
    assert held.exists() and not left.exists()
