"""What this machine has, read from recorded facts, and why a backend cannot be used."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from llorch.base.errors import HostError
from llorch.host import apple, devices

FACTS = Path(__file__).resolve().parents[1] / "facts" / "devices"


def facts(prefix: str) -> list[Any]:
    return [pytest.param(json.loads(path.read_text()), id=path.stem) for path in sorted(FACTS.glob(f"{prefix}_*.json"))]


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("case", facts("cpu"))
def test_processors(case: dict[str, Any]) -> None:
    """Model and the features the engine cares about, from /proc/cpuinfo of several machines."""
    fact = case["fact"]
    assert plain(asdict(devices.parse_cpu(case["output"], fact["architecture"], fact["cores"]))) == fact


@pytest.mark.parametrize("case", facts("memory"))
def test_memory(case: dict[str, Any]) -> None:
    """Total and available bytes from /proc/meminfo."""
    assert asdict(devices.parse_memory(case["output"])) == case["fact"]


def test_no_memory_line_is_an_error() -> None:
    """A kernel that hides its memory is not guessed about."""
    with pytest.raises(HostError):
        devices.parse_memory("Buffers: 3 kB\n")


@pytest.mark.parametrize("case", facts("nvidia"))
def test_nvidia_gpus(case: dict[str, Any]) -> None:
    """GPUs, with what a partitioned one does not say left open; free memory is never negative."""
    gpus = devices.parse_nvml(case["output"])
    assert [plain(asdict(gpu)) for gpu in gpus] == case["fact"]
    assert all(gpu.memory_free_bytes >= 0 for gpu in gpus)


@pytest.mark.parametrize("case", facts("apple"))
def test_apple_gpus(case: dict[str, Any]) -> None:
    """GPUs of a Mac from the system's own tools; what they do not say stays open, and garbage is no GPU."""
    gpus = apple.parse_gpus(case["profiler"], case["registry"], case["memory_total_bytes"])
    assert [plain(asdict(gpu)) for gpu in gpus] == case["fact"]


def test_this_machine_answers() -> None:
    """The collectors work here, whatever the machine has."""
    assert devices.read_cpu().cores >= 1
    memory = devices.read_memory()
    assert 0 < memory.available_bytes <= memory.total_bytes
    gpus, reason = devices.read_gpus()
    assert bool(gpus) != bool(reason)


def test_cpu_is_always_available_and_others_say_why_not() -> None:
    """Each backend is usable or has a reason; an absent GPU is named when asked for."""
    found = {backend.name: backend.reason for backend in devices.backends()}
    assert set(found) == {"cpu", "cuda", "metal"}
    assert found["cpu"] is None
    with pytest.raises(HostError, match="no GPU 99"):
        devices.free_vram_bytes(99)
