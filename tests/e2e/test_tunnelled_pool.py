"""Workers that stay on their pool's loopback, reached through SSH: `llorch pool worker spawn --tunnel`, autospawn."""

from __future__ import annotations

import getpass
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from daemons import Cluster, Daemon, call, ended, environment, program, stream, text_of, until, workers_ready

from tests.remote.cli import Done, install_pool, llorch
from tests.remote.link import Link
from tests.remote.sshd import SSHD, Sshd, running_sshd

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not SSHD.exists(), reason="needs OpenSSH's server: apt-get install openssh-server"),
]
TASK = {"model": "demo", "prompt": "Once upon a time", "max_tokens": 200, "seed": 7, "temperature": 0.0}


@dataclass
class Rig:
    """An orchestratord on loopback, and the pool `den`, whose sshd is reached over a link of its own."""

    cluster: Cluster
    sshd: Sshd
    link: Link
    config: Path
    there: Path

    def start(self, *flags: str) -> Daemon:
        """orchestratord, once it has the tunnel."""
        daemon = self.cluster.orchestratord("--config", str(self.config), *flags)
        until(lambda: (self.pool(daemon).get("tunnel") or {}).get("open"), f"the tunnel is open\n{daemon.log}")
        return daemon

    def pool(self, daemon: Daemon) -> dict[str, Any]:
        """The row of the pool."""
        rows = daemon.get("/v2/pools").json["pools"]
        return dict(next((row for row in rows if row["id"] == "den"), {}))

    def llorch(self, daemon: Daemon, *words: str) -> Done:
        """The operator's tool, on the same machine as orchestratord."""
        named = {"LLORCH_CONFIG": str(self.config), "LLORCH_STATE": str(self.cluster.state)}
        return llorch(*words, env={**self.sshd.env, **named, "LLORCH_ORCHESTRATOR": daemon.url})

    def spawn(self, daemon: Daemon, *words: str) -> dict[str, Any]:
        """A worker behind the tunnel; its record."""
        done = self.llorch(daemon, "pool", "worker", "spawn", "cpu", "--model", "demo", *words, "--host", "den")
        assert done.code == 0, done.err
        workers_ready(daemon, 1)
        [path] = [p for p in (self.there / "workers").glob("worker-*.json") if not p.name.endswith(".status.json")]
        return dict(json.loads(path.read_text()))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Everything stopped at the end, workers included."""
    with running_sshd(tmp_path / "ssh") as sshd, Link(sshd.port) as link:
        there = tmp_path / "there"
        settings = {"LLORCH_HOME": str(there), "LLORCH_STATE": str(tmp_path / "there-state")}
        wrapper = install_pool(sshd, settings)
        sshd.known_hosts.write_text(f"[127.0.0.1]:{link.port} {sshd.host_key}\n")
        config = tmp_path / "llorch.toml"
        config.write_text(
            f'[pools.den]\nhost = "127.0.0.1"\nport = {link.port}\nuser = "{getpass.getuser()}"\n'
            f'path = "{wrapper}"\ntunnel = true\n[models.demo]\npools = ["den"]\n'
        )
        cluster = Cluster(tmp_path, {"HOME": str(sshd.home)})
        yield Rig(cluster, sshd, link, config, there)
        cluster.close()
        env = environment(tmp_path, settings)
        subprocess.run([*program("llorch-pool"), "worker", "stop-all", "--grace", "1"], env=env, check=False)


def listening(pid: int) -> set[str]:
    """The addresses that a process listens at."""
    connections = psutil.Process(pid).net_connections("inet")
    return {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}


def test_a_worker_behind_a_tunnel_serves_and_nothing_listens_on_the_lan(rig: Rig) -> None:
    """Spawned with --tunnel: a job runs on it; it listens on loopback only, and wants the cluster's token there."""
    daemon = rig.start()
    record = rig.spawn(daemon, "--tunnel")
    [worker] = daemon.get("/v2/workers").json["workers"]
    assert worker["pool"] == "den" and worker["url"] == f"http://den.tunnel.invalid:{record['port']}"
    answer = daemon.post("/v2/tasks", {**TASK, "max_tokens": 16, "wait": True})
    assert answer.status == 200 and answer.json["usage"]["tokens_out"] == 16, answer.body
    assert listening(record["pid"]) == {"127.0.0.1"} == listening(daemon.pid)
    stranger = call(f"http://127.0.0.1:{record['port']}", "POST", "/execute", {"job_id": "x", "prompt": "x"})
    assert stranger.status == 401
    assert rig.pool(daemon)["workers"] == [record["worker_id"]]


def test_a_cut_connection_does_not_end_the_job(rig: Rig) -> None:
    """SSH is cut in the middle of a stream: the tunnel is made again and the job goes on, no token twice, no gap."""
    daemon = rig.start()
    rig.spawn(daemon)  # the pool's profile says tunnel
    with stream(daemon.url, "POST", "/v2/tasks", TASK) as events:
        whole = text_of(list(events))
    rig.link.pause_s = 0.02  # the worker is faster than a line on which one can be in the middle
    with stream(daemon.url, "POST", "/v2/tasks", TASK) as events:
        seen = events.take(10)
        rig.link.pause_s = 0.0
        rig.link.cut()
        seen += events.rest()
    assert seen[-1].data["type"] == "end" and text_of(seen) == whole
    assert "tunnel open" in daemon.log.partition("connection was lost")[2] and "attempt failed" in daemon.log


def test_it_is_known_again_after_a_restart(rig: Rig) -> None:
    """kill -9 of orchestratord: the next one makes the tunnel again and asks the worker how it is."""
    daemon = rig.start()
    record = rig.spawn(daemon)
    daemon.kill()
    daemon = rig.start()
    workers_ready(daemon, 1)
    job_id = daemon.post("/v2/tasks", {**TASK, "max_tokens": 8}).json["job_id"]
    assert ended(daemon, job_id)["status"] == "completed"
    assert daemon.get("/v2/workers").json["workers"][0]["worker_id"] == record["worker_id"]


def test_autospawn_goes_through_the_tunnel(rig: Rig) -> None:
    """orchestratord listens on loopback only, and loads a model on another machine all the same."""
    daemon = rig.start("--autospawn", "--idle-ttl-s", "2")
    job_id = daemon.post("/v2/tasks", {**TASK, "max_tokens": 8}).json["job_id"]
    assert ended(daemon, job_id, 90.0)["status"] == "completed", daemon.log
    [worker] = daemon.get("/v2/workers").json["workers"]
    assert worker["pool"] == "den" and worker["url"].startswith("http://den.tunnel.invalid:")
    until(lambda: not daemon.get("/v2/workers").json["workers"], "the idle worker is stopped", 60.0)


def test_nobody_else_can_name_what_lies_behind_a_tunnel(rig: Rig) -> None:
    """Not by announcing it, not by registering the name, not as another pool's, and nothing but loopback there."""
    daemon = rig.start()
    hidden = "http://den.tunnel.invalid:22"
    announcement = {"worker_id": "w", "url": hidden, "model": "demo", "protocol": 1}
    assert daemon.post("/v2/workers/ready", announcement).status == 400
    for name in ("den.tunnel.invalid", "DEN.tunnel.invalid.", "den.tunnel.ｉnvalid"):
        assert daemon.post("/v2/pools", {"id": name}).status == 400, name
    assert daemon.post("/v2/workers", {"url": hidden}).status == 400
    for url in ("http://10.0.0.1:8001", "https://127.0.0.1:8001", hidden):
        assert daemon.post("/v2/workers", {"url": url, "pool": "den"}).status == 400, url
    assert daemon.post("/v2/workers", {"url": "http://127.0.0.1:8001", "pool": "attic"}).code == "POOL_NOT_FOUND"


def test_without_a_tunnel_it_is_said_what_to_do(rig: Rig) -> None:
    """A pool whose profile has none; flags that do not go with it; a server that forbids forwarding."""
    daemon = rig.start()
    rig.config.write_text(rig.config.read_text().replace("tunnel = true\n", ""))
    until(lambda: "tunnel" not in rig.pool(daemon), "llorch.toml was read again")
    spawn = ("pool", "worker", "spawn", "cpu", "--model", "demo", "--host", "den", "--tunnel")
    none = rig.llorch(daemon, *spawn)
    assert none.code == 2 and "set tunnel = true in [pools.den]" in none.err
    for flag in (("--insecure-lan",), ("--bind", "127.0.0.1"), ("--no-wait",)):
        wrong = rig.llorch(daemon, *spawn, *flag)
        assert wrong.code == 2 and flag[0] in wrong.err
    assert not list((rig.there / "workers").glob("*.json"))


def test_a_server_that_forbids_forwarding(tmp_path: Path) -> None:
    """`GET /v2/pools` and the spawn say so, with the line of sshd_config that mends it; nothing is started."""
    with running_sshd(tmp_path / "ssh", more="AllowTcpForwarding no") as sshd:
        wrapper = install_pool(sshd, {"LLORCH_HOME": str(tmp_path / "there")})
        config = tmp_path / "llorch.toml"
        config.write_text(f'[pools.den]\nhost = "pool-a"\npath = "{wrapper}"\ntunnel = true\n')
        cluster = Cluster(tmp_path, {"HOME": str(sshd.home)})
        try:
            daemon = cluster.orchestratord("--config", str(config))
            rig = Rig(cluster, sshd, None, config, tmp_path / "there")  # type: ignore[arg-type]
            until(lambda: rig.pool(daemon)["tunnel"]["error"], "it is told")
            refused = rig.llorch(daemon, "pool", "worker", "spawn", "cpu", "--model", "demo", "--host", "den")
            assert refused.code != 0 and "AllowTcpForwarding local" in refused.err
            assert daemon.post("/v2/workers", {"url": "http://127.0.0.1:1", "pool": "den"}).code == "POOL_UNAVAILABLE"
        finally:
            cluster.close()


def test_run_goes_through_the_tunnel(rig: Rig) -> None:
    """`llorch run demo --host den`: the worker it starts stays on its loopback, and answers."""
    daemon = rig.start()
    done = rig.llorch(daemon, "run", "demo", "--host", "den", "Once upon a time")
    assert done.code == 0 and done.out.strip(), done.err
    [worker] = daemon.get("/v2/workers").json["workers"]
    assert worker["pool"] == "den" and worker["url"].startswith("http://den.tunnel.invalid:")
