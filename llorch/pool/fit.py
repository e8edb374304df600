"""Does a model fit this host's memory now? By what was measured here; before the first time, by an estimate."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from llorch.base.errors import InsufficientMemory
from llorch.base.home import Home
from llorch.host import devices, process
from llorch.pool import measured, progress
from llorch.pool.measured import Shape
from llorch.wire.catalog import ModelEntry

_RUNTIME_BYTES = 300 << 20  # what a worker needs beside its weights


class Origin(Enum):
    MEASURED = "measured"
    ESTIMATED = "estimated"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Need:
    """Memory that a worker of some shape takes, and how it is known; 0 when it is not."""

    size_bytes: int
    origin: Origin


def need(home: Home, entry: ModelEntry, shape: Shape, weights_bytes: int) -> Need:
    """What a worker would take; `weights_bytes` as stored on disk, 0 when not known."""
    seen = measured.find(home, entry, shape)
    if seen is not None:
        return Need(seen.memory_bytes, Origin.MEASURED)
    if not weights_bytes:
        return Need(0, Origin.UNKNOWN)
    if shape.backend == "cpu" and shape.dtype == "fp32" and not entry.embedded:
        weights_bytes *= 2  # stored as 16 bits
    if shape.quantize == "int8":
        weights_bytes //= 2
    return Need(weights_bytes + _RUNTIME_BYTES, Origin.ESTIMATED)


def free_bytes(backend: str, gpu: int) -> int:
    """Memory that a new worker could take now. Raises HostError when there is no such GPU."""
    return devices.free_vram_bytes(gpu) if backend == "cuda" else process.available_memory_bytes()


def check(home: Home, entry: ModelEntry, shape: Shape, weights_bytes: int, gpu: int) -> None:
    """Raises InsufficientMemory. The worker itself looks again, exactly, when it knows the model."""
    wanted = need(home, entry, shape, weights_bytes)
    free = free_bytes(shape.backend, gpu)
    if wanted.size_bytes > free:
        how = "took" if wanted.origin is Origin.MEASURED else "needs about"
        raise InsufficientMemory(
            f"model '{entry.id}' {how} {progress.megabytes(wanted.size_bytes)} of memory and "
            f"{progress.megabytes(free)} are free (stop another worker, or try all the same with --force)"
        )


def memory_taken(pid: int, backend: str, vram_bytes: int) -> int:
    """What a running worker takes of the memory that `free_bytes` counts."""
    if backend != "cuda":
        return process.resident_bytes(pid)
    held = [used for gpu in devices.read_gpus()[0] for owner, used in gpu.processes if owner == pid]
    return sum(held) or vram_bytes
