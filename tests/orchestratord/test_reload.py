"""A changed llorch.toml and a running orchestratord: what counts at once, what waits, what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemons import Cluster, Daemon, ended, environment, program, text_of, until
from job_bench import Bench


def configure(cluster: Cluster, text: str) -> Path:
    """The llorch.toml of this home, replaced at one moment as editors do."""
    path, fresh = cluster.home / "llorch.toml", cluster.home / "fresh"
    fresh.write_text(text)
    fresh.replace(path)
    return path


def hang_up(daemon: Daemon) -> None:
    os.kill(daemon.pid, signal.SIGHUP)


def dry_run(cluster: Cluster, *flags: str) -> subprocess.CompletedProcess[str]:
    argv = [*program("orchestratord"), "--dry-run", "--state", str(cluster.state), *flags]
    return subprocess.run(argv, env=environment(cluster.home), capture_output=True, text=True, timeout=60, check=False)


def test_a_running_stream_feels_nothing(cluster: Cluster, benches: Callable[[Daemon], Bench]) -> None:
    """Capacity, timeouts and tenants change under a stream that goes on to its end; the worker is the same process."""
    path = configure(cluster, "[orchestratord]\nqueue_capacity = 100\n")
    bench = benches(cluster.orchestratord("--config", str(path)))
    daemon = bench.orchestratord
    bench.worker(slots=1, token_delay_s=0.05)
    with bench.stream(max_tokens=60) as events:
        seen = events.take(5)
        configure(cluster, "[orchestratord]\nqueue_capacity = 1\nqueue_timeout_s = 0.5\n[tenants.x]\nweight = 2\n")
        hang_up(daemon)
        until(lambda: "read again from llorch.toml" in daemon.log, "it counts")
        waiting = bench.submit(max_tokens=1)
        refused = daemon.post("/v2/tasks", bench.body())
        assert (refused.status, refused.code) == (429, "QUEUE_FULL"), "the queue holds one job now"
        seen += events.rest()
    assert ended(daemon, waiting)["status"] == "completed"
    assert seen[-1].data["type"] == "end" and seen[-1].data["tokens_out"] == 60
    text_of(seen)
    assert len(bench.workers[0].executions) == 2, "the stream was one attempt, the job that waited another"
    assert "queue_capacity, queue_timeout_s, tenants.x" in daemon.log
    assert daemon.get("/health").json.get("config") is None


def test_a_change_is_seen_without_a_signal(cluster: Cluster, benches: Callable[[Daemon], Bench]) -> None:
    """How long outputs are kept, the log's level, how many connections: within a second or two of the change."""
    path = configure(cluster, "")
    bench = benches(cluster.orchestratord("--config", str(path)))
    daemon = bench.orchestratord
    bench.worker()
    job_id = bench.submit(max_tokens=1)
    ended(daemon, job_id)
    configure(cluster, '[orchestratord]\noutput_kept_s = 0.1\nlog_level = "debug"\nconnections_max = 7\n')
    until(lambda: "connections_max" in daemon.log, "it counts")
    path_of_events = f"/v2/tasks/{job_id}/events"
    until(lambda: daemon.get(path_of_events).status == 410, "the output is gone", 60)


def test_settings_that_need_a_restart_are_named(cluster: Cluster) -> None:
    """They wait, the others count; /health says so until the file agrees with what holds."""
    path = configure(cluster, "")
    daemon = cluster.orchestratord("--config", str(path))
    configure(cluster, '[orchestratord]\nbind = "127.0.0.2"\nmode = "lab"\nqueue_capacity = 5\n')
    hang_up(daemon)
    until(lambda: "these settings count after a restart: bind, mode" in daemon.log, "they are named")
    assert daemon.get("/health").json["config"] == "restart_needed"
    assert daemon.get("/v2/tasks").status == 200, "still home mode"
    assert "read again from llorch.toml: queue_capacity" in daemon.log
    configure(cluster, "[orchestratord]\nqueue_capacity = 5\n")
    until(lambda: "config" not in daemon.get("/health").json, "the file agrees again")


def test_a_bad_file_changes_nothing_and_is_told(cluster: Cluster) -> None:
    """One line in the log, /health and /metrics; all of what held before holds, until the file is mended."""
    path = configure(cluster, "[orchestratord]\nqueue_capacity = 0\n")
    daemon = cluster.orchestratord("--config", str(path))
    full = daemon.post("/v2/tasks", {"prompt": "x"})
    assert full.status == 429
    configure(cluster, "[orchestratord]\nqueue_capacity = 9\nprot = 1\n[tenants.a]\nweight = 0\n")
    until(lambda: daemon.get("/health").json.get("config") == "degraded", "it is told")
    assert "stays as it was: config file" in daemon.log and "did you mean 'port'" in daemon.log
    assert 'llorch_config_readings_total{outcome="refused"} 1' in daemon.get("/metrics").body.decode()
    assert daemon.post("/v2/tasks", {"prompt": "x"}).status == 429, "not even its good half counts"
    path.unlink()
    hang_up(daemon)
    until(lambda: "does not exist" in daemon.log, "one that is gone is told, too")
    configure(cluster, "[orchestratord]\nqueue_capacity = 9\n")
    until(lambda: daemon.post("/v2/tasks", {"prompt": "x"}).status == 202, "mended")
    assert "config" not in daemon.get("/health").json


def test_a_flag_holds_over_a_changed_file(cluster: Cluster) -> None:
    """What it was started with holds for its whole life."""
    path = configure(cluster, "")
    daemon = cluster.orchestratord("--config", str(path), "--queue-capacity", "0")
    configure(cluster, "[orchestratord]\nqueue_capacity = 9\ngrace_s = 3.0\n")
    until(lambda: "read again from llorch.toml: grace_s" in daemon.log, "the other counts")
    assert daemon.post("/v2/tasks", {"prompt": "x"}).status == 429
    shown = dry_run(cluster)
    assert shown.returncode == 0
    assert "queue_capacity: --queue-capacity holds over the file" in shown.stdout
    assert "nothing would change" in shown.stdout


def test_a_dry_run_says_what_would_change_of_the_one_that_runs(cluster: Cluster) -> None:
    """Live, restart and wrong, with its own flags and environment; and nothing has changed."""
    path = configure(cluster, "[orchestratord]\nqueue_capacity = 9\n[tenants.a]\nweight = 2.0\n")
    cluster.env["LLORCH_STALL_TIMEOUT_S"] = "7"
    daemon = cluster.orchestratord("--config", str(path))
    assert "nothing would change" in dry_run(cluster).stdout
    other = cluster.home / "other.toml"
    other.write_text(
        '[orchestratord]\nqueue_capacity = 8\nbind = "127.0.0.2"\n[tenants.b]\nweight = 1\n[tenants.a]\nweight = 3\n'
    )
    shown = dry_run(cluster, "--config", str(other))
    rows = {tuple(line.split()[:2]): line for line in shown.stdout.splitlines()}
    assert rows["live", "queue_capacity"].endswith("9 -> 8")
    assert rows["restart", "bind"].endswith('"127.0.0.1" -> "127.0.0.2"')
    assert rows["live", "tenants.a.weight"].endswith("2.0 -> 3") and "new" in rows["live", "tenants.b"]
    assert len(rows) == 4, "neither the port nor the variable it was started with"
    body = json.loads(dry_run(cluster, "--config", str(other), "--json").stdout)
    assert {row["name"]: row["when"] for row in body["changes"]}["bind"] == "restart" and body["running"]
    other.write_text("[orchestratord]\nport = 70000\nprot = 1\n")
    wrong = dry_run(cluster, "--config", str(other))
    assert wrong.returncode == 2 and f"{other}:3: " in wrong.stderr and f"{other}:2: " in wrong.stderr
    assert "did you mean 'port'" in wrong.stderr
    assert "config" not in daemon.get("/health").json and "read again" not in daemon.log
    daemon.stop()
    assert "no orchestratord runs" in dry_run(cluster, "--config", str(path)).stdout
    assert not list(cluster.state.glob("orchestratord*.json"))


def test_what_holds_is_private_and_no_secret(cluster: Cluster) -> None:
    """The record of the settings: 0600, without the key or token that the environment holds."""
    cluster.env["LLORCH_API_KEY"] = "hush-hush"
    daemon = cluster.orchestratord()
    path = cluster.state / "orchestratord-settings.json"
    assert path.stat().st_mode & 0o777 == 0o600
    token = (cluster.state / "worker-token").read_text().strip()
    text = path.read_text()
    assert "hush-hush" not in text and token not in text
    held: dict[str, Any] = json.loads(text)
    assert held["flags"]["port"] == 0 and daemon.pid
