"""A real orchestratord with --autospawn: a job without a worker gets one, on this host and over a real sshd."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import Cluster, Daemon, ended, environment, program, stream, until

from tests.remote.cli import install_pool
from tests.remote.sshd import SSHD, running_sshd

pytestmark = pytest.mark.e2e


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A fresh home; whatever happens, no worker of it is left."""
    made = Cluster(tmp_path)
    yield made
    made.close()
    subprocess.run(
        [*program("llorch-pool"), "worker", "stop-all", "--grace", "1"], env=environment(tmp_path), check=False
    )


def alive_of(home: Path) -> list[str]:
    """Commands of the live processes that belong to this home: workers carry it in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"HOME={home}\0".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return [line for line in found if " worker --" in line or "candled" in line]


def workers(daemon: Daemon) -> list[dict[str, object]]:
    return list(daemon.get("/v2/workers").json["workers"])


def test_a_job_without_a_worker_is_served_and_the_idle_worker_goes(cluster: Cluster) -> None:
    """The demo model is loaded for the job, told as loading; idle, it is stopped, and no process remains."""
    daemon = cluster.orchestratord("--autospawn", "--idle-ttl-s", "1.5")
    task = {"model": "demo", "prompt": "Once upon a time", "max_tokens": 8, "seed": 1}
    with stream(daemon.url, "POST", "/v2/tasks?wait=stream", task) as events:
        kinds = [event.data["type"] for event in events]
    assert kinds[0] == "queued" and "loading" in kinds and kinds[-1] == "end", kinds
    assert kinds.index("loading") < kinds.index("started")
    [worker] = workers(daemon)
    assert worker["pool"] == "local" and str(worker["worker_id"]).startswith("auto-")
    job_id = daemon.get("/v2/tasks").json["tasks"][0]["job_id"]
    told = daemon.get(f"/v2/tasks/{job_id}/explain").json["decisions"]
    assert any(line["kind"] == "loading" and line["chosen"] == "local" for line in told), told
    until(lambda: not workers(daemon), "the idle worker is stopped and off the list")
    until(lambda: not alive_of(cluster.home), "no process of a worker is left")
    text = daemon.get("/metrics").body.decode()
    assert 'llorch_spawns_total{outcome="ready"} 1' in text and 'llorch_stops_total{cause="idle"} 1' in text


def test_a_job_shows_as_loading_and_a_model_without_a_pool_ends_with_reasons(cluster: Cluster) -> None:
    """`status` is loading while its worker comes; a model that no pool has is said to be missing, with the command."""
    daemon = cluster.orchestratord("--autospawn")
    task = {"model": "demo", "prompt": "Hi", "max_tokens": 4}
    job_id = daemon.post("/v2/tasks", task).json["job_id"]
    seen = until(lambda: _loading(daemon, job_id), "the job shows as loading")
    assert seen["loading"]["model"] == "demo" and 0 <= seen["loading"]["progress"] <= 1
    assert ended(daemon, job_id, 60.0)["status"] == "completed"
    missing = daemon.post("/v2/tasks", {"model": "tinyllama", "prompt": "Hi", "max_tokens": 4}).json["job_id"]
    record = ended(daemon, missing, 60.0)
    assert record["error"]["code"] == "WORKER_UNAVAILABLE"
    assert "llorch pool models download tinyllama" in record["error"]["message"]


def test_what_was_measured_decides_where_a_model_is_loaded(cluster: Cluster, tmp_path: Path) -> None:
    """A model that was seen to take more than `[pools.local.limits]` gives is not loaded; with enough it is."""
    program_ = program("llorch-pool")
    env = environment(tmp_path)
    subprocess.run([*program_, "worker", "spawn", "cpu", "--model", "demo"], env=env, check=True)
    subprocess.run([*program_, "worker", "stop-all", "--grace", "1"], env=env, check=True)
    status = json.loads(
        subprocess.run([*program_, "status", "--json"], env=env, check=True, capture_output=True).stdout
    )
    taken = next(model["measured_bytes"] for model in status["models"] if model["id"] == "demo")
    config = tmp_path / "llorch.toml"
    config.write_text(f"[pools.local.limits]\nmemory_mib = {(taken >> 20) - 1}\n")
    daemon = cluster.orchestratord("--autospawn", "--config", str(config))
    task = {"model": "demo", "prompt": "Hi", "max_tokens": 4}
    record = ended(daemon, daemon.post("/v2/tasks", task).json["job_id"], 60.0)
    assert record["error"]["code"] == "INSUFFICIENT_MEMORY"
    assert f"cpu needs {round(taken / (1 << 20))} MiB" in record["error"]["message"]
    config.write_text(f"[pools.local.limits]\nmemory_mib = {(taken >> 20) + 1}\n")
    until(lambda: "read again from llorch.toml: pools.local" in daemon.log, "the changed file is read")
    assert ended(daemon, daemon.post("/v2/tasks", task).json["job_id"], 60.0)["status"] == "completed"


def _loading(daemon: Daemon, job_id: str) -> dict[str, dict[str, float]] | None:
    shown = daemon.get(f"/v2/tasks/{job_id}").json
    listed = daemon.get("/v2/tasks?status=loading").json["tasks"]
    assert listed == [] or listed[0]["job_id"] == job_id
    return shown if shown["status"] == "loading" else None


def test_a_worker_is_spawned_by_hand_and_not_stopped_when_idle(cluster: Cluster) -> None:
    """`POST /v2/pools/local/workers` needs no --autospawn; wrong pools, models and backends are told apart."""
    daemon = cluster.orchestratord()
    answer = daemon.post("/v2/pools/local/workers", {"model": "demo", "backend": "cpu"})
    assert answer.status == 202, answer.body
    until(lambda: [w for w in workers(daemon) if w["state"] == "ready"], "the worker is there", 60.0)
    [worker] = workers(daemon)
    assert worker["worker_id"] == answer.json["worker_id"] and worker["pool"] == "local"
    assert daemon.post("/v2/pools/mars/workers", {"model": "demo", "backend": "cpu"}).code == "POOL_NOT_FOUND"
    assert daemon.post("/v2/pools/local/workers", {"model": "demo", "backend": "abacus"}).status == 400


def test_autospawn_is_switched_on_while_it_runs_and_no_reload_restarts_a_worker(cluster: Cluster) -> None:
    """llorch.toml says so, and a job that waited is served; other changes leave the worker's process as it is."""
    config = cluster.home / "llorch.toml"
    config.write_text("")
    daemon = cluster.orchestratord("--config", str(config))
    job_id = daemon.post("/v2/tasks", {"model": "demo", "prompt": "Hi", "max_tokens": 4}).json["job_id"]
    config.write_text("[orchestratord]\nautospawn = true\n")
    os.kill(daemon.pid, signal.SIGHUP)
    assert ended(daemon, job_id, 60.0)["status"] == "completed"
    [worker] = workers(daemon)
    record = cluster.home / ".local/share/llorch/workers" / f"{worker['worker_id']}.json"
    until(lambda: "starting a worker" in daemon.log and _spawned(daemon), "the spawn is over")
    before = json.loads(record.read_text())
    config.write_text("[orchestratord]\nautospawn = true\nqueue_capacity = 7\nspawn_timeout_s = 90\n[tenants.a]\n")
    os.kill(daemon.pid, signal.SIGHUP)
    until(lambda: "queue_capacity" in daemon.log, "it counts")
    task = {"model": "demo", "prompt": "Hi", "max_tokens": 4, "wait": True}
    assert daemon.post("/v2/tasks", task).status == 200
    assert json.loads(record.read_text()) == before and os.kill(before["pid"], 0) is None
    config.write_text("[orchestratord]\nautospawn = true\n[models.demo]\nttl_s = 0.5\n")
    until(lambda: not workers(daemon), "a shorter time to live counts, too", 60.0)


def _spawned(daemon: Daemon) -> bool:
    return 'llorch_spawns_total{outcome="ready"} 1' in daemon.get("/metrics").body.decode()


def test_stopping_orchestratord_while_a_worker_loads_leaves_no_process(cluster: Cluster) -> None:
    """SIGTERM ends the spawn that is under way, and its worker with it."""
    daemon = cluster.orchestratord("--autospawn", "--grace-s", "0")
    daemon.post("/v2/tasks", {"model": "demo", "prompt": "Hi", "max_tokens": 4})
    until(lambda: alive_of(cluster.home), "the worker's process begins", 60.0)
    assert daemon.stop() == 0
    until(lambda: not alive_of(cluster.home) or workers_ready_meanwhile(cluster), "no half-loaded worker is left")


def workers_ready_meanwhile(cluster: Cluster) -> bool:
    """The signal may come when the command is done: then the worker is whole, recorded, and stays."""
    printed = subprocess.run(
        [*program("llorch-pool"), "worker", "list"], env=environment(cluster.home), capture_output=True, check=True
    )
    return b"Running" in printed.stdout


@pytest.mark.skipif(not SSHD.exists(), reason="needs OpenSSH's server: apt-get install openssh-server")
def test_a_pool_over_ssh(cluster: Cluster, tmp_path: Path) -> None:
    """A pool of llorch.toml, by a pin: the worker is spawned there over SSH, known by its name, and stopped there."""
    with running_sshd(tmp_path / "ssh") as sshd:
        there = tmp_path / "there"
        wrapper = install_pool(sshd, {"LLORCH_HOME": str(there), "LLORCH_STATE": str(tmp_path / "there-state")})
        config = tmp_path / "llorch.toml"
        config.write_text(
            f'[pools.den]\nhost = "pool-a"\npath = "{wrapper}"\n[models.demo]\npools = ["den"]\nttl_s = 1\n'
        )
        cluster.env = {"HOME": str(sshd.home)}
        daemon = cluster.orchestratord("--autospawn", "--config", str(config))
        task = {"model": "demo", "prompt": "Hi", "max_tokens": 4, "placement": {"pin_pool": "den"}}
        until(lambda: daemon.post("/v2/tasks", task).status == 202, "the pool has been heard of")
        until(lambda: workers(daemon), "a worker has come", 60.0)
        [worker] = workers(daemon)
        assert worker["pool"] == "den" and list((there / "workers").glob("auto-*.json"))
        until(lambda: not workers(daemon), "it is stopped when it is idle", 60.0)
        assert not list((there / "workers").glob("*.json"))
