"""Which arithmetic this machine's processor does natively."""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


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
