"""`llorch bench`: figures of several real workers side by side, by the same prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import Cluster, environment, free_port

from tests.remote.cli import llorch


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A fresh home; every process started in it is reaped."""
    made = Cluster(tmp_path)
    yield made
    made.close()


@pytest.mark.e2e
def test_two_workers_side_by_side(cluster: Cluster) -> None:
    """Every worker has its row of medians, greedy texts agree, and one that is gone fails before anything runs."""
    names = [worker.url.removeprefix("http://") for worker in (cluster.worker(), cluster.worker())]
    env = environment(cluster.home, {"LLORCH_STATE": str(cluster.state)})
    flags = [word for name in names for word in ("--worker", name)]
    done = llorch("bench", *flags, "--rounds", "2", "--max-tokens", "16", "--json", env=env)
    assert done.code == 0, done.err
    body = json.loads(done.out)
    assert [row["worker"] for row in body["workers"]] == names and body["same_text"]
    for row in body["workers"]:
        assert row["model"] == "demo" and row["backend"] == "cpu" and row["rounds"] == 2 and row["error"] is None
        assert row["ttft_ms"] > 0 and row["tokens_per_s"] > 0 and 0 < row["tokens_out"] <= 32
    shown = llorch("bench", *flags, "--rounds", "1", "--max-tokens", "4", env=env)
    assert shown.out.startswith("WORKER") and len(shown.out.splitlines()) == 3 and "medians of 1 rounds" in shown.err
    failed = llorch("bench", *flags, "--rounds", "1", "--max-tokens", "99999", env=env)
    assert failed.code == 1 and "exceed the context" in failed.err and "the same" not in failed.err
    gone = llorch("bench", "--worker", f"127.0.0.1:{free_port()}", env=env)
    assert gone.code == 5 and gone.out == ""
    assert llorch("bench", *flags, "--rounds", "0", env=env).code == 2
