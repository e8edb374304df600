"""GPUs of a Mac, by the system's own tools: system_profiler says what is there, ioreg how busy it is.

Apple's GPUs have no memory of their own: what is total and free is the machine's main memory.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from llorch.host.devices import Gpu

PROFILER = ("system_profiler", "-json", "SPDisplaysDataType")
REGISTRY = ("ioreg", "-r", "-c", "IOAccelerator", "-d", "1", "-a")
BRAND = ("sysctl", "-n", "machdep.cpu.brand_string")
_TIMEOUT_S = 10.0


def parse_gpus(profiler: str, registry: str, memory_total_bytes: int) -> tuple[Gpu, ...]:
    """GPUs from the JSON of system_profiler and the property list of ioreg; what they do not say stays open."""
    statistics = [_mapping(row.get("PerformanceStatistics")) for row in _registry_rows(registry)]
    gpus = []
    for index, row in enumerate(_profiler_rows(profiler)):
        now = statistics[index] if index < len(statistics) else {}
        busy = now.get("Device Utilization %")
        gpus.append(
            Gpu(
                index=index,
                name=str(row.get("sppci_model") or row.get("_name") or "unknown GPU"),
                uuid="",
                memory_total_bytes=memory_total_bytes,
                memory_used_bytes=_number(now.get("In use system memory")) or 0,
                utilisation_percent=_number(busy),
                driver=_metal(row),
                processes=(),
            )
        )
    return tuple(gpus)


def _profiler_rows(text: str) -> list[Mapping[str, Any]]:
    """Rows of GPUs; of displays none."""
    try:
        rows = json.loads(text).get("SPDisplaysDataType", [])
    except (ValueError, AttributeError):
        return []
    return [row for row in rows if isinstance(row, dict) and str(row.get("sppci_device_type", "")).endswith("gpu")]


def _registry_rows(text: str) -> list[Mapping[str, Any]]:
    import plistlib
    from xml.parsers.expat import ExpatError

    try:
        rows = plistlib.loads(text.encode())
    except (plistlib.InvalidFileException, ExpatError, ValueError):
        return []
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _metal(row: Mapping[str, Any]) -> str:
    """`spdisplays_metal3` and the like, in words."""
    told = str(row.get("spdisplays_mtlgpufamilysupport") or row.get("spdisplays_metal") or "")
    version = told.removeprefix("spdisplays_metal")
    return f"Metal {version}" if version.isdecimal() else ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def read_gpus(memory_total_bytes: int) -> tuple[tuple[Gpu, ...], str | None]:
    """This Mac's GPUs, and why none is seen when none is."""
    gpus = parse_gpus(_output(PROFILER), _output(REGISTRY), memory_total_bytes)
    return gpus, None if gpus else "system_profiler lists no GPU"


def read_brand() -> str:
    """The processor's name; empty when the system does not say."""
    return _output(BRAND).strip()


def _output(argv: Sequence[str]) -> str:
    """What a tool of the system prints; nothing when it is not there, fails or hangs."""
    try:
        done = subprocess.run(argv, capture_output=True, timeout=_TIMEOUT_S, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace")
