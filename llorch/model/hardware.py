"""Which instructions this machine's processor has."""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def cpu_flags() -> frozenset[str]:
    """The processor's features in the words of /proc/cpuinfo; empty where there is no such file."""
    try:
        with CPUINFO.open(encoding="utf-8") as lines:
            for line in lines:
                name, _, flags = line.partition(":")
                if name.strip() in ("flags", "Features"):
                    return frozenset(flags.split())
    except OSError:
        pass
    return frozenset()


def has_native_bf16() -> bool:
    """True where bf16 arithmetic is in hardware. Elsewhere torch computes it a hundred times slower than fp32."""
    return not BF16_FLAGS.isdisjoint(cpu_flags())
