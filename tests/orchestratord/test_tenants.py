"""Tenants: several keys each, limits from llorch.toml that are read again, usage, and figures for operators."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import Cluster, Daemon, ended, until
from job_bench import Bench

from llorch.base import config
from llorch.base.errors import ConfigError
from llorch.base.ids import TenantId
from llorch.base.problems import Problems
from llorch.core.tenant import TenantLimits
from llorch.orchestratord import tenants
from llorch.store.store import FILE_NAME
from tests.orchestratord.live import live
from tests.orchestratord.test_access import bearer, keys, refuses

ALICE = """
[tenants.alice]
weight = 2
running_max = 3
queued_max = 4
tokens_per_day = 5000
requests_per_s = 0.5
models = ["demo", "qwen3-0.6b"]
"""


def limits_of(daemon: Daemon, key: str) -> dict[str, object]:
    """What the caller's tenant may."""
    (shown,) = daemon.get("/v2/usage", headers=bearer(key)).json["tenants"]
    return dict(shown["limits"])


def test_sections_become_limits(tmp_path: Path) -> None:
    """Every field; `default` is who is not named; no section at all is no bound for anybody."""
    path = tmp_path / "llorch.toml"
    path.write_text(ALICE + "[tenants.default]\nrunning_max = 1\n")
    read = tenants.parse(config.load_file(path), Problems())
    wanted = TenantLimits(2.0, 3, 4, 5000, 0.5, ("demo", "qwen3-0.6b"))  # type: ignore[arg-type]
    assert read.limits == {TenantId("alice"): wanted}
    assert read.default == TenantLimits(running_max=1)
    assert tenants.parse({}, Problems()).default == TenantLimits()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[tenants.a]\nrunnin_max = 1", "did you mean 'running_max'"),
        ("[tenants.a]\nrunning_max = 0", "between 1 and"),
        ("[tenants.a]\nrunning_max = 1.5", "expected integer"),
        ('[tenants.a]\nrunning_max = "2"', "expected integer"),
        ("[tenants.a]\nrunning_max = true", "expected integer"),
        ("[tenants.a]\nweight = 0", "between 0.001 and 1e+15"),
        ("[tenants.a]\nweight = nan", "between 0.001 and 1e+15"),
        ("[tenants.a]\nweight = 1e300", "between 0.001 and 1e+15"),
        ("[tenants.a]\nrequests_per_s = -1", "between 0.001 and 1e+15"),
        ("[tenants.a]\nmodels = []", "a list of 1"),
        ('[tenants.a]\nmodels = "demo"', "a list of 1"),
        ('[tenants.a]\nmodels = ["../x"]', "not the id of a model"),
        ('[tenants."a b"]\nweight = 1', "must match"),
        ("[tenants]\na = 1", "must be a section"),
        ("tenants = 1", "must be a section"),
        ("[tenant.a]\nweight = 1", "did you mean 'tenants'"),
    ],
)
def test_wrong_sections_are_one_clear_line(text: str, says: str, tmp_path: Path) -> None:
    """The file, the section and what is wrong."""
    path = tmp_path / "llorch.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        live(path, tmp_path)
    assert says in error.value.message and str(path) in error.value.message


def test_a_wrong_file_does_not_start(cluster: Cluster) -> None:
    """At start a misspelt limit is exit 2 and one line."""
    path = cluster.home / "llorch.toml"
    path.write_text("[tenants.a]\nrunnin_max = 1\n")
    assert "did you mean" in refuses(cluster, "--config", str(path))


def test_a_changed_file_counts_and_a_wrong_one_does_not(tmp_path: Path) -> None:
    """News come once per change; a file that cannot be used, or is gone, leaves what holds."""
    path = tmp_path / "llorch.toml"
    file = live(path, tmp_path)
    assert file.news() is None and file.current.tenants.limits == {}
    path.write_text(ALICE)
    before = file.news()
    read = file.current
    assert before is not None and before.tenants.limits == {}
    assert read.tenants.limits[TenantId("alice")].running_max == 3
    assert file.news() is None
    path.write_text(ALICE + "weight = 3\n")  # twice in one section: not TOML
    assert file.news() is None and file.current == read
    path.unlink()
    assert file.news() is None and file.read_again() is None and file.current == read
    path.write_text("[orchestratord]\nport = 1\n" + ALICE)
    assert file.news() is None, "nothing of it counts before a restart"
    path.write_text("[orchestratord]\nport = 1\n")
    assert file.news() is not None and file.current.tenants.limits == {}


def test_limits_are_read_again_while_it_runs(cluster: Cluster) -> None:
    """A changed file counts within seconds, SIGHUP at once and kills nobody; a bad one is a line in the log."""
    key = keys(cluster, "create", "alice").stdout.strip()
    path = cluster.home / "llorch.toml"
    path.write_text("[tenants.alice]\nrunning_max = 1\n")
    daemon = cluster.orchestratord("--mode", "lab", "--config", str(path))
    assert limits_of(daemon, key)["running_max"] == 1
    path.write_text("[tenants.alice]\nrunning_max = 2\n[tenants.default]\nweight = 7.0\n")
    until(lambda: limits_of(daemon, key)["running_max"] == 2, "the change counts")
    path.write_text("[tenants.alice]\nrunning_maxx = 3\n")
    until(lambda: "stays as it was" in daemon.log, "the log says so")
    os.kill(daemon.pid, signal.SIGHUP)
    assert limits_of(daemon, key)["running_max"] == 2
    path.write_text("[tenants.default]\nrunning_max = 5\n")
    os.kill(daemon.pid, signal.SIGHUP)
    until(lambda: limits_of(daemon, key)["running_max"] == 5, "alice is not named any more")
    assert daemon.process.poll() is None


def test_limits_hold_in_home_mode_too(cluster: Cluster, benches: Callable[[Daemon], Bench]) -> None:
    """There all are one tenant: [tenants.default] bounds it."""
    path = cluster.home / "llorch.toml"
    path.write_text("[tenants.default]\nqueued_max = 1\n")
    bench = benches(cluster.orchestratord("--config", str(path)))
    bench.worker(slots=1, token_delay_s=30)
    bench.submit(max_tokens=3)
    until(lambda: bench.workers[0].executions, "one runs")
    bench.submit(max_tokens=3)
    refused = bench.orchestratord.post("/v2/tasks", bench.body())
    assert (refused.status, refused.code) == (429, "QUOTA_EXCEEDED")


def test_keys_of_one_tenant_share_all_that_is_the_tenants(cluster: Cluster) -> None:
    """Jobs of one key are seen and cancelled by another of the same tenant; `keys list` says who is whose."""
    alice = keys(cluster, "create", "alice").stdout.strip()
    laptop = keys(cluster, "create", "laptop", "--tenant", "alice").stdout.strip()
    assert keys(cluster, "create", "x", "--tenant", "a b").returncode == 2
    listed = keys(cluster, "list").stdout.splitlines()
    assert listed[0].split()[:2] == ["NAME", "TENANT"]
    assert [line.split()[:2] for line in listed[1:]] == [["alice", "alice"], ["laptop", "alice"]]
    daemon = cluster.orchestratord("--mode", "lab")
    job_id = daemon.post("/v2/tasks", {"prompt": "x"}, headers=bearer(alice)).json["job_id"]
    assert daemon.get(f"/v2/tasks/{job_id}", headers=bearer(laptop)).status == 200
    (shown,) = daemon.get("/v2/usage", headers=bearer(laptop)).json["tenants"]
    assert shown["tenant"] == "alice" and shown["now"]["waiting"] == 1
    keys(cluster, "revoke", "alice")
    until(lambda: daemon.get("/v2/tasks", headers=bearer(alice)).status == 401, "revoked")
    assert daemon.delete(f"/v2/tasks/{job_id}", headers=bearer(laptop)).status == 202


def test_usage_counts_jobs_and_tokens_by_day(cluster: Cluster, benches: Callable[[Daemon], Bench]) -> None:
    """Today by the ended jobs; days before come from the store, as far back as was asked for."""
    bench = benches(cluster.orchestratord())
    bench.worker()
    for _ in range(3):
        ended(bench.orchestratord, bench.submit(max_tokens=5))
    (shown,) = bench.orchestratord.get("/v2/usage").json["tenants"]
    (today,) = shown["days"]
    assert shown["tenant"] == "default" and shown["now"] == {"running": 0, "waiting": 0, "reserved_tokens": 0}
    assert (today["jobs"], today["tokens_out"]) == (3, 15) and today["prompt_tokens"] > 0
    assert today["day"] == time.strftime("%Y-%m-%d", time.gmtime())
    bench.orchestratord.kill()
    day = int(time.time() // 86_400)
    connection = sqlite3.connect(cluster.state / FILE_NAME, isolation_level=None)
    for tenant, back, jobs in (("default", 2, 7), ("default", 30, 8), ("old", 3, 9), ("default", 500, 1)):
        connection.execute("INSERT INTO usage VALUES (?, ?, ?, 1, 2)", (tenant, day - back, jobs))
    connection.close()
    daemon = cluster.orchestratord()
    jobs = {
        (tenant["tenant"], row["jobs"]) for tenant in daemon.get("/v2/usage").json["tenants"] for row in tenant["days"]
    }
    assert jobs == {("default", 3), ("default", 7), ("old", 9), ("old", 0)}, "in home mode all of them"
    more = daemon.get("/v2/usage?days=400").json["tenants"][0]["days"]
    assert [row["jobs"] for row in more] == [3, 7, 8], "400 days are kept"
    for bad in ("0", "401", "x", "-1", ""):
        assert daemon.get(f"/v2/usage?days={bad}").code == "INVALID_REQUEST"


def test_tenants_figures_are_for_operators(cluster: Cluster, benches: Callable[[Daemon], Bench]) -> None:
    """/metrics counts tokens and jobs by tenant for this machine; through a proxy it names nobody."""
    bench = benches(cluster.orchestratord())
    bench.worker()
    ended(bench.orchestratord, bench.submit(max_tokens=5))
    (shown,) = bench.orchestratord.get("/v2/usage").json["tenants"]
    tokens = shown["days"][0]["prompt_tokens"] + shown["days"][0]["tokens_out"]
    text = bench.orchestratord.get("/metrics").body.decode()
    assert f'llorch_tenant_tokens_total{{tenant="default"}} {tokens}\n' in text
    assert 'llorch_tenant_jobs_total{tenant="default"} 1\n' in text
    abroad = bench.orchestratord.get("/metrics", headers={"X-Forwarded-For": "203.0.113.9"})
    assert abroad.status == 200 and b"llorch_tenant" not in abroad.body
    token = (cluster.state / "worker-token").read_text().strip()
    shown_to = {"X-Forwarded-For": "203.0.113.9", **bearer(token)}
    assert b"llorch_tenant" in bench.orchestratord.get("/metrics", headers=shown_to).body
