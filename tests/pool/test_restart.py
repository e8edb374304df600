"""`worker restart`: the same worker again, with nothing of its work lost."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from llorch.base.home import find_home
from llorch.client.events import End
from llorch.client.worker import WorkerClient
from llorch.host import runtime
from llorch.pool import records
from llorch.wire.execute import ExecuteRequest
from llorch.wire.sampling import Sampling
from tests.pool.pools import Pool

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def _needs_the_model() -> None:
    if not os.environ.get("LLORCH_FROZEN") and not (runtime.assets_dir() / "demo").is_dir():
        pytest.skip("the demo model is not built")


def spawned(pool: Pool, *words: str) -> dict[str, Any]:
    return pool.ok("worker", "spawn", "cpu", "--model", "demo", "--json", *words).json()["worker"]


def listed(pool: Pool) -> dict[str, Any]:
    (row,) = pool.ok("worker", "list", "--json").json()["workers"]
    return row


def test_it_finishes_its_work_and_comes_back_as_it_was(pool: Pool) -> None:
    """A stream that runs ends as it would have; id, port and settings are the old ones, the process is new."""
    before = spawned(pool, "--slots", "3", "--context", "512")
    request = ExecuteRequest("job-live", "Once upon a time", (), 400, Sampling(seed=1))
    with WorkerClient(before["url"]).execute(request) as events:
        next(iter(events))
        restarting = pool.popen("worker", "restart", before["worker_id"], "--json")
        rest = list(events)
    out, err = restarting.communicate(timeout=60)
    assert restarting.returncode == 0, err
    done = json.loads(out)
    assert isinstance(rest[-1], End) and done["outcome"] == "stopped"
    row = listed(pool)
    assert (row["worker_id"], row["port"], row["status"]) == (before["worker_id"], before["port"], "Running")
    assert row["pid"] == done["worker"]["pid"] != before["pid"] == done["old_pid"]
    assert (row["health"]["slots_total"], row["health"]["context_length"]) == (3, 512)


def test_one_that_does_not_end_is_killed_and_one_of_an_older_version_comes_back(pool: Pool) -> None:
    """A frozen process is given its grace, then killed; a record without flags is started again with defaults."""
    before = spawned(pool, "--slots", "3")
    path = records.record_path(find_home(pool.env), before["worker_id"])
    record = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in record.items() if k not in ("flags", "build_id")}))
    os.kill(before["pid"], signal.SIGSTOP)
    ran = pool.ok("worker", "restart", before["worker_id"], "--grace", "0.2", "--json")
    assert ran.json()["outcome"] == "killed" and "older version" in ran.err
    row = listed(pool)
    assert (row["port"], row["status"]) == (before["port"], "Running") and row["flags"]


def test_nothing_is_stopped_that_could_not_start_again(pool: Pool, tmp_path: Path) -> None:
    """A model that is gone is noticed before the worker is touched."""
    before = spawned(pool)
    path = records.record_path(find_home(pool.env), before["worker_id"])
    path.write_text(path.read_text().replace('"demo"', '"qwen-0.5b"'))
    refused = pool.run("worker", "restart", before["worker_id"])
    assert refused.code == 4 and "not downloaded" in refused.err
    assert listed(pool)["pid"] == before["pid"]
