"""The doctor's look at the machine: room on disk, clock and version against the caller's, backends, services."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import llorch
from llorch.base.home import Home
from llorch.host import devices, disk, runtime, services
from llorch.host.units import Scope
from llorch.pool.findings import Finding, Level
from llorch.pool.progress import megabytes

DISK_LOW_BYTES = 2 << 30
DISK_FULL_BYTES = 64 << 20
# More than a slow SSH login can explain.
SKEW_MAX_S = 15.0


def look(
    home: Home, env: Mapping[str, str], *, caller_clock: float | None, caller_version: str | None
) -> list[Finding]:
    """Everything about the machine. `caller_clock` is Unix time over there, just now; None when nobody told."""
    return [
        *_room(home.models_dir, "models"),
        *_room(home.workers_dir, "logs"),
        *_clock(caller_clock),
        *_version(caller_version),
        *_backends(),
        *_services(env),
    ]


def _room(path: Path, what: str) -> list[Finding]:
    free = disk.free_bytes(path)
    if free >= DISK_LOW_BYTES:
        return []
    level = Level.PROBLEM if free < DISK_FULL_BYTES else Level.WARNING
    mend = "llorch-pool models list, then llorch-pool models delete ID"
    return [Finding("disk", level, f"{megabytes(free)} are free for {what} ({path})", mend)]


def _clock(caller_clock: float | None) -> list[Finding]:
    if caller_clock is None or abs(skew := time.time() - caller_clock) <= SKEW_MAX_S:
        return []
    detail = f"this host's clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'} of the caller's"
    return [Finding("clock", Level.PROBLEM, detail, "sudo timedatectl set-ntp true")]


def _version(caller_version: str | None) -> list[Finding]:
    """`caller_version` is VERSION or VERSION+BUILD; builds are compared where both are known."""
    if caller_version is None:
        return []
    version, _, build = caller_version.partition("+")
    ours = runtime.build().build_id
    if version == llorch.__version__ and (not build or "source" in (build, ours) or build == ours):
        return []
    detail = f"this host has llorch {llorch.__version__} build {ours}, the caller {version} build {build or 'unknown'}"
    return [Finding("versions", Level.WARNING, detail, "llorch pool install --host HOST")]


def _backends() -> list[Finding]:
    """A GPU that cannot be used is worth a warning; hardware that is not there is not."""
    found = []
    for backend in devices.backends():
        if backend.reason is None:
            continue
        present = backend.name == "cuda" and (Path("/dev/nvidiactl").exists() or bool(devices.read_gpus()[0]))
        level = Level.WARNING if present else Level.NOTE
        mend = "nvidia-smi, then install the driver it asks for or a llorch build with CUDA" if present else ""
        found.append(Finding("backends", level, f"{backend.name}: {backend.reason}", mend))
    if not runtime.kernels_dir().is_dir():
        detail = "the native kernels are missing: workers compute with torch, slowly"
        found.append(Finding("backends", Level.WARNING, detail, "llorch self check"))
    return found


def _services(env: Mapping[str, str]) -> list[Finding]:
    """A user's services end with the last session unless they may linger."""
    if not services.names(Scope.USER, env) or (step := services.linger_step()) is None:
        return []
    detail = "services of llorch are installed for this user and end when the user logs out"
    return [Finding("services", Level.WARNING, detail, f"sudo {' '.join(step)}")]
