"""What this machine has: processor, memory, GPUs, and which backends can work here, with the reason when not.

Collecting (files, NVML) and parsing are apart: every parser is a pure function, tested on recorded facts.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llorch.base.errors import HostError
from llorch.host import runtime

BACKENDS = ("cpu", "cuda", "metal")
# What the engine's kernels ask for, in /proc/cpuinfo's words.
CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16")
_GPU_PROCESSES_MAX = 64


@dataclass(frozen=True, slots=True)
class Cpu:
    """`cores` are the processors this process may use; `features` those of CPU_FEATURES it has."""

    model: str
    architecture: str
    cores: int
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of main memory: installed, and usable by a new process without swapping."""

    total_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. `utilisation_percent` is None when the driver does not say; `processes` are (pid, bytes)."""

    index: int
    name: str
    uuid: str
    memory_total_bytes: int
    memory_used_bytes: int
    utilisation_percent: int | None
    driver: str
    processes: tuple[tuple[int, int], ...]

    @property
    def memory_free_bytes(self) -> int:
        return max(0, self.memory_total_bytes - self.memory_used_bytes)


@dataclass(frozen=True, slots=True)
class Backend:
    """`reason` says why it cannot be used; None when it can."""

    name: str
    reason: str | None


def parse_cpu(cpuinfo: str, architecture: str, cores: int) -> Cpu:
    """Read the text of /proc/cpuinfo: the first processor speaks for all."""
    facts: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            facts.setdefault(name.strip(), value.strip())
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    model = facts.get("model name") or facts.get("Model") or facts.get("Hardware") or architecture
    return Cpu(model, architecture, cores, tuple(name for name in CPU_FEATURES if name in flags))


def parse_memory(meminfo: str) -> Memory:
    """Read the text of /proc/meminfo. Raises HostError when it has no MemTotal."""
    values: dict[str, int] = {}
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdecimal():
            values[name.strip()] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    if "MemTotal" not in values:
        raise HostError("the system does not say how much memory there is")
    # Kernels before 3.14 have no MemAvailable.
    available = values.get("MemAvailable", values.get("MemFree", 0) + values.get("Cached", 0))
    return Memory(values["MemTotal"], available)


def parse_nvml(answers: Mapping[str, Any]) -> tuple[Gpu, ...]:
    """GPUs from what `collect_nvml` wrote down."""
    gpus = []
    for index, row in enumerate(answers.get("devices", ())):
        used = {int(p["pid"]): int(p.get("used_bytes") or 0) for p in row.get("processes") or ()}
        utilisation = row.get("utilisation_percent")
        gpus.append(
            Gpu(
                index=index,
                name=str(row.get("name") or "unknown GPU"),
                uuid=str(row.get("uuid") or ""),
                memory_total_bytes=int(row.get("memory_total_bytes") or 0),
                memory_used_bytes=int(row.get("memory_used_bytes") or 0),
                utilisation_percent=None if utilisation is None else int(utilisation),
                driver=str(answers.get("driver") or ""),
                processes=tuple(sorted(used.items())[:_GPU_PROCESSES_MAX]),
            )
        )
    return tuple(gpus)


def read_cpu() -> Cpu:
    """This machine's processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = f"model name: {_brand()}\n"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return parse_cpu(text, platform.machine(), cores)


def _brand() -> str:
    """The processor's name where there is no /proc."""
    from llorch.host import apple

    named = apple.read_brand() if sys.platform == "darwin" else ""
    return named or platform.processor() or platform.machine()


def read_memory() -> Memory:
    """This machine's memory, as far as the control group lets us use it."""
    from llorch.host.process import available_memory_bytes

    try:
        total = parse_memory(Path("/proc/meminfo").read_text()).total_bytes
    except OSError:
        import psutil

        total = int(psutil.virtual_memory().total)
    return Memory(total, min(total, available_memory_bytes()))


def collect_nvml() -> tuple[dict[str, Any], str | None]:
    """What the NVIDIA driver says, as plain JSON values; the reason when it says nothing."""
    try:
        import pynvml
    except ImportError:
        return {}, "the NVIDIA management library's binding is not in this build"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return {}, _no_driver(str(error))
    try:
        count = pynvml.nvmlDeviceGetCount()
        devices = [_collect_device(pynvml, pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(count)]
        return {"driver": _text(pynvml.nvmlSystemGetDriverVersion()), "devices": devices}, None
    except pynvml.NVMLError as error:
        return {}, f"the NVIDIA driver reports: {error}"
    finally:
        pynvml.nvmlShutdown()


def _no_driver(error: str) -> str:
    if "Not Found" in error or "not found" in error:
        return "no NVIDIA driver is installed (libnvidia-ml.so.1 not found)"
    return f"the NVIDIA driver does not start: {error}"


def _collect_device(pynvml: Any, handle: Any) -> dict[str, Any]:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    row: dict[str, Any] = {
        "name": _text(pynvml.nvmlDeviceGetName(handle)),
        "uuid": _text(pynvml.nvmlDeviceGetUUID(handle)),
        "memory_total_bytes": int(memory.total),
        "memory_used_bytes": int(memory.used),
    }
    try:
        row["utilisation_percent"] = int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except pynvml.NVMLError:
        row["utilisation_percent"] = None  # partitioned GPUs do not say
    try:
        running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        row["processes"] = [{"pid": int(p.pid), "used_bytes": int(p.usedGpuMemory or 0)} for p in running]
    except pynvml.NVMLError:
        row["processes"] = []
    return row


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def read_gpus() -> tuple[tuple[Gpu, ...], str | None]:
    """This machine's GPUs, and why none is seen when none is."""
    if sys.platform == "darwin":
        from llorch.host import apple

        return apple.read_gpus(read_memory().total_bytes)
    answers, reason = collect_nvml()
    gpus = parse_nvml(answers)
    return gpus, reason if gpus or reason else "the NVIDIA driver lists no GPU"


def backends() -> tuple[Backend, ...]:
    """Every backend with the reason when it cannot be used."""
    return tuple(Backend(name, why_not(name)) for name in BACKENDS)


def why_not(backend: str) -> str | None:
    """Why `backend` cannot be used on this machine with this program; None when it can."""
    built = runtime.build().backends
    if backend == "cpu":
        return None
    if backend == "metal":
        if sys.platform != "darwin" or platform.machine() != "arm64":
            return "Metal needs macOS on Apple silicon"
    elif (missing := read_gpus()[1]) is not None:
        return missing
    if backend not in built:
        return f"this build's torch runtime ({runtime.build().torch_version}) supports {', '.join(built)} only"
    return None


def free_vram_bytes(index: int) -> int:
    """Free memory of GPU `index`. Raises HostError when there is no such GPU."""
    gpus, reason = read_gpus()
    if index >= len(gpus):
        raise HostError(f"there is no GPU {index} here: {reason or f'{len(gpus)} GPUs are seen'}")
    return gpus[index].memory_free_bytes
