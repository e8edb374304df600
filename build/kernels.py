"""Compile the native kernels: `python build/kernels.py` writes build/out/kernels/libllorch_<isa>.so for every variant.

A machine without a C++ compiler, or of another architecture, gets none: the worker then computes with torch.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "llorch" / "model" / "kernels"
OUT = ROOT / "build" / "out" / "kernels"

# -ffp-contract=off: the bits of a sum must not depend on where the compiler saw a chance to fuse.
COMMON = (
    *("-std=c++20", "-O3", "-fPIC", "-shared", "-pthread", "-ffp-contract=off", "-fno-math-errno"),
    "-fno-strict-aliasing",  # packed rows are written as values and read as pairs or quads of them
    *("-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi", "-Wno-ignored-attributes"),
)
AVX512 = ("-march=x86-64-v4", "-mavx512bf16", "-mavx512vnni")
VARIANTS: dict[str, tuple[str, ...]] = {
    "amx": ("-DLLORCH_ISA_AMX", *AVX512, "-mamx-tile", "-mamx-bf16", "-mamx-int8"),
    "avx512": ("-DLLORCH_ISA_AVX512", *AVX512),
    "avx2": ("-march=x86-64-v3",),
}
# The AMX variant with its tile unit in plain C++: for tests on processors without one.
EMULATED = ("-DLLORCH_ISA_AMX", "-DLLORCH_AMX_EMULATED", *AVX512)


def compiler() -> str | None:
    """The C++ compiler, None where there is none that can compile for this architecture."""
    if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "AMD64"):
        return None
    return shutil.which(os.environ.get("CXX") or "g++")


def compile_variant(flags: Sequence[str], library: Path) -> bool:
    """Compile unless `library` is up to date; False, with the compiler's words on stderr, when that failed."""
    command = [str(compiler()), *COMMON, *flags, str(SOURCES / "engine.cpp")]
    digest = hashlib.sha256(repr(command).encode())
    for source in sorted([*SOURCES.glob("*.h"), *SOURCES.glob("*.cpp")]):
        digest.update(source.read_bytes())
    stamp = library.with_suffix(".stamp")
    if library.is_file() and stamp.is_file() and stamp.read_text() == digest.hexdigest():
        return True
    library.parent.mkdir(parents=True, exist_ok=True)
    fresh = library.with_suffix(f".{os.getpid()}.part")
    if subprocess.run([*command, "-o", str(fresh)], check=False).returncode != 0:
        return False
    fresh.replace(library)
    stamp.write_text(digest.hexdigest())
    return True


def build_all() -> list[Path]:
    """Every variant's library; those that could not be built are left out, with one line that says so."""
    if compiler() is None:
        print("no native kernels: no C++ compiler for this machine; workers will compute with torch", flush=True)
        return []
    libraries = {isa: OUT / f"libllorch_{isa}.so" for isa in VARIANTS}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        built = list(pool.map(compile_variant, VARIANTS.values(), libraries.values()))
    for isa, success in zip(libraries, built, strict=True):
        if not success:
            libraries[isa].unlink(missing_ok=True)  # an old one must not stand in for it
            print(f"no {isa} kernels: the compiler refused them", flush=True)
    return [library for library, success in zip(libraries.values(), built, strict=True) if success]


if __name__ == "__main__":
    print("\n".join(str(library.relative_to(ROOT)) for library in build_all()))
