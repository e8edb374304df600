"""What this machine offers a model: memory left, processors allowed, native bf16. Honours cgroups and affinity."""

from __future__ import annotations

import os
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
MEMINFO = Path("/proc/meminfo")
CGROUP_ROOT = Path("/sys/fs/cgroup")
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
UNLIMITED_BYTES = 1 << 60


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").splitlines()[0]
    except (OSError, ValueError, IndexError):
        return ""


def own_cgroups() -> list[Path]:
    """The cgroup v2 directories that bind this process, innermost first; on v1 the memory controller's root."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    unified = next((line[3:] for line in lines if line.startswith("0::")), "/")
    inner = CGROUP_ROOT / unified.lstrip("/")
    return [path for path in (inner, *inner.parents) if path.is_relative_to(CGROUP_ROOT)]


def available_memory_bytes() -> int:
    """Bytes that can be taken without swapping: the least of the kernel's estimate and every cgroup's room."""
    room = UNLIMITED_BYTES
    try:
        for line in MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                room = int(line.split()[1]) * 1024
    except OSError:
        room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([room, *(_cgroup_room(path) for path in own_cgroups()), _cgroup_v1_room()])


def _cgroup_room(path: Path) -> int:
    limit = _first_line(path / "memory.max")
    used = _first_line(path / "memory.current")
    if not limit.isdigit() or not used.isdigit():
        return UNLIMITED_BYTES
    return max(0, int(limit) - int(used) + _reclaimable(path / "memory.stat"))


def _cgroup_v1_room() -> int:
    limit = _first_line(CGROUP_ROOT / "memory/memory.limit_in_bytes")
    used = _first_line(CGROUP_ROOT / "memory/memory.usage_in_bytes")
    if not limit.isdigit() or not used.isdigit():
        return UNLIMITED_BYTES
    return max(0, int(limit) - int(used) + _reclaimable(CGROUP_ROOT / "memory/memory.stat"))


def _reclaimable(stat: Path) -> int:
    """File pages the kernel may drop: counted as used by the cgroup, free for us."""
    try:
        fields = dict(line.split() for line in stat.read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return 0
    return int(fields.get("inactive_file", fields.get("total_inactive_file", 0)))


def processors_allowed() -> int:
    """Processors this process may keep busy: affinity, and the cgroup's cpu.max rounded up."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for path in own_cgroups():
        quota, _, period = _first_line(path / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            allowed = min(allowed, max(1, -(-int(quota) // int(period))))
    return allowed


def has_native_bf16() -> bool:
    """True where bf16 arithmetic is in hardware. Elsewhere torch computes it a hundred times slower than fp32."""
    try:
        with CPUINFO.open(encoding="utf-8") as lines:
            for line in lines:
                name, _, flags = line.partition(":")
                if name.strip() in ("flags", "Features"):
                    return not BF16_FLAGS.isdisjoint(flags.split())
    except OSError:
        pass
    return False
