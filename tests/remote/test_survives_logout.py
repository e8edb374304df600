"""A worker spawned over SSH lives on after the session ends, and a doctor over SSH compares clock and version."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llorch.host import process
from tests.daemons import call
from tests.remote.cli import install_pool, llorch
from tests.remote.sshd import Sshd


@pytest.fixture
def env(sshd: Sshd, tmp_path: Path) -> dict[str, str]:
    wrapper = install_pool(
        sshd, {"LLORCH_HOME": str(tmp_path / "pool"), "LLORCH_STATE": str(tmp_path / "pool-state"), "LLORCH_QUIET": "1"}
    )
    config = tmp_path / "llorch.toml"
    config.write_text(f'[pools.a]\nhost = "pool-a"\npath = "{wrapper}"\n')
    return {**sshd.env, "LLORCH_CONFIG": str(config), "LLORCH_STATE": str(tmp_path / "state")}


@pytest.mark.e2e
def test_a_worker_survives_the_session_that_spawned_it(sshd: Sshd, env: dict[str, str]) -> None:
    """It has a session of its own and no parent of the SSH session; it still answers and can be stopped."""
    spawned = llorch("pool", "worker", "spawn", "cpu", "--model", "demo", "--host", "a", "--json", env=env)
    assert spawned.code == 0, spawned.err
    worker = json.loads(spawned.out)["worker"]
    try:
        assert process.is_alive(worker["pid"], worker["start_time"])
        assert os.getsid(worker["pid"]) == worker["pid"]
        parent = int(Path(f"/proc/{worker['pid']}/stat").read_text().rpartition(")")[2].split()[1])
        assert "sshd" not in Path(f"/proc/{parent}/comm").read_text()
        assert call(worker["url"], "GET", "/health").json["worker_id"] == worker["worker_id"]
    finally:
        stopped = llorch("pool", "worker", "stop-all", "--host", "a", env=env)
    assert stopped.code == 0, stopped.err
    assert not process.is_alive(worker["pid"], worker["start_time"])


def test_a_doctor_over_ssh_knows_our_clock_and_version(sshd: Sshd, env: dict[str, str]) -> None:
    """The caller's clock and version travel along: the same machine has no skew."""
    done = llorch("pool", "doctor", "--host", "a", "--json", env=env)
    found = [row for row in json.loads(done.out)["findings"] if row["check"] in ("clock", "versions")]
    assert found == [], done.err
