"""`[models.ID]` and `[pools.NAME]`: what they mean, and what is refused with one clear line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llorch.base import config
from llorch.base.errors import ConfigError
from llorch.base.problems import Problems
from llorch.core.demand_settings import DemandSettings, ModelLimits
from llorch.core.pool_facts import RAM, Bank, ModelThere, Place, WorkerThere
from llorch.orchestratord.demand_file import Demand, parse
from llorch.orchestratord.pool_report import facts_of
from tests.orchestratord.live import live

POOLS = '[pools.Den]\nhost = "10.0.0.7"\nmac = "aa:bb:cc:dd:ee:ff"\nlabels = ["fast"]\n'


def read(tmp_path: Path, text: str) -> Demand:
    path = tmp_path / "llorch.toml"
    path.write_text(text)
    problems = Problems()
    found = parse(config.load_file(path), DemandSettings(), ModelLimits(ttl_s=7.0), problems)
    problems.must_be_none(path)
    return found


def test_models_and_pools_are_read(tmp_path: Path) -> None:
    """Keys that are left out have the settings' values; pool `local` is always there."""
    found = read(tmp_path, POOLS + '[models.demo]\nreplicas_min = 2\npinned = true\npools = ["den"]\n')
    assert found.read.models == {"demo": ModelLimits(2, 2, 7.0, True, ("den",))}  # type: ignore[arg-type, comparison-overlap]
    assert list(found.pools) == ["local", "den"] and found.pools["den"].labels == ("fast",)  # type: ignore[index]
    assert found.pools["local"].target is None and found.read.pools == ("local", "den")  # type: ignore[index]


def test_limits_of_pools(tmp_path: Path) -> None:
    """MiB of main memory for all workers of a pool, our own host included; a pool without one has no limit."""
    found = read(tmp_path, POOLS + "[pools.Den.limits]\nmemory_mib = 3\n[pools.local.limits]\nmemory_mib = 2\n")
    assert {name: pool.memory_max_bytes for name, pool in found.pools.items()} == {"local": 2 << 20, "den": 3 << 20}
    assert found.pools["local"].target is None  # type: ignore[index]
    assert read(tmp_path, POOLS).pools["den"].memory_max_bytes is None  # type: ignore[index]


@pytest.mark.parametrize(
    ("limit", "bank"),
    [
        (None, Bank(RAM, 100, 60)),
        (50, Bank(RAM, 50, 38)),
        (80, Bank(RAM, 80, 60)),
        (10, Bank(RAM, 10, 0)),
        (500, Bank(RAM, 100, 60)),
    ],
)
def test_a_limit_is_less_what_workers_hold_and_never_more_than_there_is(limit: int | None, bank: Bank) -> None:
    """Workers hold 12 of 100 here, and 60 are available."""
    body = {"memory": {"total_bytes": 100, "available_bytes": 60, "workers_bytes": 12}}
    facts = facts_of("den", body, (), wakeable=False, memory_max_bytes=limit)  # type: ignore[arg-type]
    assert facts.banks == (bank,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[models.demo]\nreplicas = 1\n", "unknown key 'replicas'"),
        ('[models.demo]\nreplicas_min = "1"\n', "replicas_min: expected integer"),
        ("[models.demo]\nreplicas_min = -1\n", "between 0 and"),
        ("[models.demo]\nreplicas_min = 3\nreplicas_max = 2\n", "replicas_min is 3, replicas_max 2"),
        ("[models.demo]\nttl_s = -1\n", "ttl_s: must be between"),
        ("[models.demo]\npinned = 1\n", "pinned: expected true or false"),
        ('[models.demo]\npools = "den"\n', "must be a list"),
        (POOLS + '[models.demo]\npools = ["dem"]\n', "no pool 'dem' (did you mean 'den'?)"),
        ("[models.UPPER]\n", "must match"),
        ('[pools.den]\nmac = "nonsense"\n', "must be six pairs of hex digits"),
        ("[pools.den]\nmac = 5\n", "must be six pairs of hex digits"),
        ("[pools.den]\nlabels = [1]\n", "must be a list"),
        ("[pools.local]\nlimits = 5\n", "[pools.local.limits]"),
        ("[pools.den.limits]\nmemory = 5\n", "unknown key 'memory'; there is memory_mib"),
        ("[pools.local.limits]\nmemory_mib = 0\n", "memory_mib must be a number from 1"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, said: str) -> None:
    """Section and key are named, with what would be right."""
    with pytest.raises(ConfigError) as failed:
        read(tmp_path, text)
    assert said in failed.value.message and "\n" not in failed.value.message


def test_a_change_is_news_once_and_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    """Read again when it has changed and says something else; what cannot be used leaves what held."""
    path = tmp_path / "llorch.toml"
    path.write_text(POOLS)
    watched = live(path, tmp_path)
    assert watched.news() is None
    path.write_text(POOLS + "[models.demo]\npinned = true\n")
    before = watched.news()
    found = watched.current
    assert before is not None and not before.demand.read.models
    assert found.demand.read.models["demo"].pinned  # type: ignore[index]
    path.write_text("[models.demo]\nnonsense = true\n")
    os.utime(path, (1, 1))
    assert watched.news() is None and watched.current is found


def test_a_report_is_read_with_suspicion() -> None:
    """Facts as `llorch-pool status --json` prints them; what is malformed is left out, never believed."""
    body = {
        "memory": {"total_bytes": 100, "available_bytes": 60},
        "gpus": [{"index": 1, "memory_total_bytes": 40, "memory_free_bytes": 30}, {"index": "x"}, 5],
        "backends": [
            {"name": "cpu", "available": True},
            {"name": "cuda", "available": True},
            {"name": "metal", "available": False},
        ],
        "models": [
            {"id": "demo", "size_bytes": 9, "measured_bytes": 12},
            {"id": "NO GOOD"},
            {"id": "b", "size_bytes": -1},
        ],
        "workers": [
            {"worker_id": "w1", "model": "demo", "backend": "cuda", "gpu": 1, "status": "Running"},
            {"worker_id": "w2", "model": "demo", "backend": "cpu", "gpu": None, "status": "Dead"},
            {"worker_id": "no good"},
        ],
    }
    facts = facts_of("den", body, (), wakeable=False)  # type: ignore[arg-type]
    assert facts.banks == (Bank(RAM, 100, 60), Bank("gpu1", 40, 30))
    assert facts.places == (Place("cuda", 1, "gpu1"), Place("cpu", None, RAM))
    assert facts.models == (ModelThere("demo", 9, 12), ModelThere("b", 0, 0))  # type: ignore[arg-type]
    assert facts.workers == (WorkerThere("w1", "demo", "cuda", 1),)  # type: ignore[arg-type]
    assert facts_of("den", {"memory": 5, "gpus": {}, "models": None}, (), wakeable=False).places == ()  # type: ignore[arg-type]
