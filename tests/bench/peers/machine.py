"""This machine: its processor in one line, how fast its memory is read, how busy others keep it."""

from __future__ import annotations

import fcntl
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from llorch.base.errors import HostError

ISA_FLAGS = (
    *("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
)
BANDWIDTH_MIB = 2048
BANDWIDTH_PASSES = 6
COMPILE_S = 60
READ_S = 60


def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field), "")


def isa_flags() -> tuple[str, ...]:
    """The instruction sets that matter here, of those this processor has."""
    present = set(_cpuinfo("flags").split())
    return tuple(flag for flag in ISA_FLAGS if flag in present)


def has_amx() -> bool:
    """Does this processor have AMX?"""
    return "amx_tile" in isa_flags()


def cpu_line(threads: int) -> str:
    """Model name, instruction sets and the number of threads used."""
    name = _cpuinfo("model name") or platform.processor() or platform.machine()
    model = "/".join(_cpuinfo(field) for field in ("cpu family", "model", "stepping"))
    return f"{name} ({model}) {' '.join(isa_flags())} threads={threads}"


def compiler() -> str:
    """clang where there is one, else gcc. Raises HostError."""
    from shutil import which

    found = which(os.environ.get("CC") or "clang") or which("gcc") or which("cc")
    if found is None:
        raise HostError("no C compiler: install gcc or clang")
    return found


def build_reader(folder: Path) -> Path:
    """The compiled `bandwidth.c`. Raises HostError."""
    source, program = Path(__file__).with_name("bandwidth.c"), folder / "bandwidth"
    if program.exists() and program.stat().st_mtime > source.stat().st_mtime:
        return program
    folder.mkdir(parents=True, exist_ok=True)
    argv = [compiler(), "-O3", "-march=native", "-fopenmp", str(source), "-o", str(program)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=COMPILE_S, check=False)
    if done.returncode and "clang" in argv[0]:  # without its OpenMP library
        argv[0] = "gcc"
        done = subprocess.run(argv, capture_output=True, text=True, timeout=COMPILE_S, check=False)
    if done.returncode:
        raise HostError(f"bandwidth.c does not compile: {(done.stderr.strip() or 'no message').splitlines()[0]}")
    return program


def bandwidth_gb_s(reader: Path, threads: int) -> float:
    """Reading 2 GiB in huge pages with all threads. Raises HostError."""
    argv = [str(reader), str(threads), str(BANDWIDTH_MIB), str(BANDWIDTH_PASSES)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=READ_S, check=False)
    if done.returncode:
        raise HostError(f"the memory could not be read: exit code {done.returncode}")
    return float(done.stdout)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Two runs at once would build into the same folders, and measure each other. Raises HostError."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HostError("another benchmark is at work here") from None
        yield


class Others:
    """How much of this machine others used since this object was made, a share of all processors."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy = _busy_s()
        self._own = _own_s()

    def share(self) -> float:
        """Call it when all children have ended, so that what they used is known."""
        elapsed = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        return max(0.0, (_busy_s() - self._busy - (_own_s() - self._own)) / elapsed)


def _busy_s() -> float:
    times = psutil.cpu_times()
    return times.user + times.nice + times.system


def _own_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
