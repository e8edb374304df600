"""`llorch-pool status --json` against its schema: real output, and facts recorded on other machines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from llorch.host import apple, devices
from llorch.host.devices import Gpu
from llorch.pool.status import gpu_body, memory_body
from tests import json_schema
from tests.daemons import ROOT
from tests.json_schema import problems
from tests.pool.pools import Pool

FACTS = ROOT / "tests" / "facts" / "devices"
SCHEMA = json_schema.load("pool_status")
UNITS = {
    "_bytes": "bytes",
    "_percent": "percent",
    "_gb": "gigabytes",
    "_mib": "MiB",
    "_at": "ISO 8601",
    "_1m": "minute",
}


def status(pool: Pool) -> Any:
    return pool.ok("status", "--json").json()


def recorded(prefix: str) -> list[Any]:
    return [pytest.param(json.loads(path.read_text()), id=path.stem) for path in sorted(FACTS.glob(f"{prefix}_*.json"))]


def properties(schema: Any, where: str = "$") -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(place, what is said of it, the object that has it) of every key in the schema."""
    if isinstance(schema, dict):
        for name, inner in schema.get("properties", {}).items():
            yield f"{where}.{name}", inner, schema
            yield from properties(inner, f"{where}.{name}")
        yield from properties(schema.get("items"), f"{where}[]")


def test_every_key_is_described_and_nothing_else_is_allowed() -> None:
    """Each key has a description that names its unit; every object of ours is closed and has all its keys."""
    found = list(properties(SCHEMA))
    assert len(found) > 60
    for where, inner, parent in found:
        assert inner["description"].endswith("."), where
        unit = UNITS.get(re.sub(r"^.*(_[a-z0-9]+)$", r"\1", where))
        assert unit is None or unit in inner["description"], where
        assert parent["additionalProperties"] is False and set(parent["required"]) == set(parent["properties"]), where


def test_output_with_workers_and_models_is_as_the_schema_says(pool: Pool) -> None:
    """A running worker, a dead one's record, an alias and what an other version left in the catalog; then no worker."""
    pool.ok("worker", "spawn", "cpu", "--model", "demo", "--slots", "2", "--context", "256")
    pool.ok("worker", "spawn", "cpu", "--model", "demo", "--worker-id", "worker-cpu-dead")
    record = json.loads((pool.home / "workers" / "worker-cpu-dead.json").read_text())
    pool.ok("worker", "stop", "worker-cpu-dead", "--grace", "1")
    (pool.home / "workers" / "worker-cpu-dead.json").write_text(json.dumps(record))
    pool.ok("models", "alias", "story", "demo")
    catalog = json.loads((pool.home / "catalog.json").read_text())
    catalog["models"][0]["of_a_later_version"] = 1
    (pool.home / "catalog.json").write_text(json.dumps(catalog))
    found = status(pool)
    assert list(problems(found, SCHEMA)) == []
    rows = {row["worker_id"]: row for row in found["workers"]}
    assert rows["worker-cpu-dead"]["status"] == "Dead" and rows["worker-cpu-dead"]["memory_bytes"] == 0
    assert sorted(row["status"] for row in rows.values()) == ["Dead", "Running"]
    assert found["memory"]["workers_bytes"] == sum(row["memory_bytes"] for row in rows.values()) > 1 << 20
    assert list(problems({**found, "gpus": None}, SCHEMA)) and list(problems({**found, "more": 1}, SCHEMA))
    pool.ok("worker", "stop-all", "--grace", "1")
    (pool.home / "workers" / "worker-cpu-dead.json").unlink(missing_ok=True)
    assert list(problems(status(pool), SCHEMA)) == []


def test_what_was_measured_is_told_by_shape(pool: Pool) -> None:
    """`measured_bytes` is of a spawn without flags about the shape, 0 before the first; each shape has its row."""
    assert [row["measured_bytes"] for row in status(pool)["models"]] == [0]
    pool.ok("worker", "spawn", "cpu", "--model", "demo", "--slots", "2", "--context", "256")
    [model] = status(pool)["models"]
    assert model["measured_bytes"] == 0
    assert [(row["slots"], row["context"], row["context_length"]) for row in model["measured"]] == [(2, 256, 256)]
    pool.ok("worker", "spawn", "cpu", "--model", "demo")
    found = status(pool)
    [model] = found["models"]
    [_, plain] = model["measured"]
    assert model["measured_bytes"] == plain["memory_bytes"] > 1 << 20
    assert plain["slots"] is None and plain["slots_total"] > 0 and plain["context_length"] > 0
    assert list(problems(found, SCHEMA)) == []


def check_gpus(pool: Pool, gpus: tuple[Gpu, ...], case: dict[str, Any]) -> None:
    """This machine's output with another's GPUs in it; the first process is a worker of ours."""
    ours = {pid for gpu in gpus[:1] for pid, _ in gpu.processes[:1]}
    body = {**status(pool), "gpus": [gpu_body(gpu, ours) for gpu in gpus]}
    body["gpus_reason"] = None if gpus else "none is seen"
    assert list(problems(json.loads(json.dumps(body)), SCHEMA)) == [], case["origin"]


@pytest.mark.parametrize("case", recorded("nvidia"))
def test_nvidia_gpus_are_as_the_schema_says(pool: Pool, case: dict[str, Any]) -> None:
    """None, one, two, partitioned: what the driver said there fits, processes of ours and others included."""
    check_gpus(pool, devices.parse_nvml(case["output"]), case)


@pytest.mark.parametrize("case", recorded("apple"))
def test_apple_gpus_are_as_the_schema_says(pool: Pool, case: dict[str, Any]) -> None:
    """A Mac with much, little and nothing to say."""
    check_gpus(pool, apple.parse_gpus(case["profiler"], case["registry"], case["memory_total_bytes"]), case)


@pytest.mark.parametrize("case", recorded("cpu"))
def test_processors_are_as_the_schema_says(case: dict[str, Any]) -> None:
    """Every processor whose facts were recorded."""
    body = {**case["fact"], "load_1m": 0.5}
    assert list(problems(body, SCHEMA["properties"]["cpu"])) == []


@pytest.mark.parametrize("case", recorded("memory"))
def test_memory_is_as_the_schema_says(case: dict[str, Any]) -> None:
    """What strangers use is never below nothing, however much our workers share."""
    body = memory_body(devices.parse_memory(case["output"]), workers_bytes=1 << 50)
    assert list(problems(body, SCHEMA["properties"]["memory"])) == [] and body["foreign_bytes"] == 0


def test_the_documents_lead_to_the_schema() -> None:
    """cli.md and http.md link it, by its file's name."""
    for name in ("cli.md", "http.md"):
        assert "(pool_status.schema.json)" in (ROOT / "spec" / name).read_text(), name
