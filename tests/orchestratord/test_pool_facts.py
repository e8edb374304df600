"""What pools say of themselves: asked on demand, here and over a real sshd, bounded in time, and shown by `status`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import json_schema
from tests.daemons import Cluster, Daemon, environment
from tests.json_schema import problems
from tests.remote.cli import install_pool, llorch
from tests.remote.sshd import SSHD, Sshd, running_sshd

SCHEMA = json_schema.load("pool_status")


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if not SSHD.exists():
        pytest.skip("needs OpenSSH's server: apt-get install openssh-server")
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture(scope="module")
def daemon(sshd: Sshd) -> Iterator[Daemon]:
    """An orchestratord whose llorch.toml has the pools `near` (a real sshd), `slow` (hangs) and `gone` (no port)."""
    wrapper = install_pool(sshd, {"LLORCH_HOME": str(sshd.remote_home / "pool")})
    slow = sshd.remote_home / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(0o755)
    config = sshd.home / "llorch.toml"
    config.write_text(
        f'[pools.near]\nhost = "pool-a"\npath = "{wrapper}"\n[pools.slow]\nhost = "pool-a"\npath = "{slow}"\n'
        '[pools.gone]\nhost = "127.0.0.1"\nport = 1\n'
    )
    cluster = Cluster(sshd.home, {"LLORCH_HOME": str(sshd.home / "own")})
    yield cluster.orchestratord("--config", str(config))
    cluster.close()


def pool(daemon: Daemon, name: str, query: str = "") -> dict[str, Any]:
    return next(row for row in daemon.get(f"/v2/pools{query}").json["pools"] if row["id"] == name)


def test_our_own_host_is_pool_local(daemon: Daemon) -> None:
    """It is there without being registered; its facts come without SSH, when asked for, and are kept."""
    before = pool(daemon, "local")
    assert before["is_local"] is True
    answer = daemon.post("/v2/pools/local/refresh")
    assert answer.status == 200, answer.body
    assert list(problems(answer.json["facts"], SCHEMA)) == []
    kept = pool(daemon, "local")
    assert kept["facts"] == answer.json["facts"] and kept["facts_error"] is None
    assert 0 <= kept["facts_age_s"] < 60
    assert daemon.post("/v2/pools", {"id": "local"}).status == 400


def test_a_registered_pool_is_asked_over_ssh(daemon: Daemon) -> None:
    """The host of a profile answers with its own facts; fresh ones are not asked for again."""
    assert daemon.post("/v2/pools", {"id": "near"}).status == 201
    assert pool(daemon, "near")["facts"] is None
    asked = pool(daemon, "near", "?max_age_s=600")
    assert list(problems(asked["facts"], SCHEMA)) == []
    assert asked["facts"]["disk"]["path"].endswith("remote-home/pool/models")
    again = pool(daemon, "near", "?max_age_s=600")
    assert again["facts"]["at"] == asked["facts"]["at"]


def test_who_has_no_profile_is_not_logged_in_to(daemon: Daemon) -> None:
    """A client of the API cannot have this machine log in anywhere: only llorch.toml can."""
    assert daemon.post("/v2/pools", {"id": "pool-b.home.arpa"}).status == 201
    shown = daemon.post("/v2/pools/pool-b.home.arpa/refresh").json
    assert shown["facts"] is None and "llorch pool register" in shown["facts_error"]
    assert daemon.post("/v2/pools/unheard-of/refresh").code == "POOL_NOT_FOUND"
    assert daemon.delete("/v2/pools/pool-b.home.arpa").status == 200


def test_one_that_hangs_or_is_gone_costs_bounded_time(daemon: Daemon) -> None:
    """The list comes back in time with what is known; the reason of a failure stands beside the old facts."""
    for name in ("slow", "gone"):
        assert daemon.post("/v2/pools", {"id": name}).status == 201
    began = time.monotonic()
    rows = {row["id"]: row for row in daemon.get("/v2/pools?max_age_s=0", timeout_s=60).json["pools"]}
    assert time.monotonic() - began < 15
    assert rows["local"]["facts"] and rows["gone"]["facts"] is None
    assert "gone: connection refused" in rows["gone"]["facts_error"]
    for name in ("slow", "gone"):
        assert daemon.delete(f"/v2/pools/{name}").status == 200


def test_status_shows_the_pools(daemon: Daemon, tmp_path: Path) -> None:
    """`llorch status` has a line per pool with memory, disk and the age of the facts."""
    env = environment(tmp_path, {"LLORCH_ORCHESTRATOR": daemon.url})
    shown = llorch("status", env=env)
    assert shown.code == 0, shown.err
    (line,) = [line for line in shown.out.splitlines() if line.startswith("local")]
    assert " GB of " in line and line.rstrip().endswith(" s")
    body = json.loads(llorch("status", "--refresh", "--json", env=env).out)
    assert body["pools"][0]["id"] == "local" and body["pools"][0]["facts_age_s"] < 10


def test_a_bad_age_is_refused(daemon: Daemon) -> None:
    """max_age_s is a whole number of seconds."""
    assert daemon.get("/v2/pools?max_age_s=-1").status == 400
