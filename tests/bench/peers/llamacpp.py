"""llama.cpp as the peer: its sources from the llama-cpp-python package, built natively, and its own benchmarks.

What it needs once: pip's way to the package, cmake and a C++ compiler. Builds are kept, stamped with what made them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from peers import gguf, machine

from llorch.base.errors import HostError

PACKAGE = "llama-cpp-python"
PACKAGE_VERSION = "0.3.36"
BENCHMARKS = ("llama-bench", "llama-batched-bench")
PROGRAMS = ("llama-quantize", "llama-server")  # of the native build only
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "GGML_CCACHE": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_BUILD_COMMON": "ON",
    "LLAMA_BUILD_TOOLS": "ON",
    "LLAMA_BUILD_SERVER": "ON",
}
# gcc 12 takes `_tile_loadconfig` to read 8 bytes only and drops the stores to the rest of the tile configuration.
AMX_SOURCE = "ggml/src/ggml-cpu/amx/mmq.cpp"
AMX_CALL, AMX_MENDED = (
    "    _tile_loadconfig(&tc);",
    '    __asm__ volatile("" ::: "memory");\n    _tile_loadconfig(&tc);',
)
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
NO_MMAP = ("-lm", "none")
DOWNLOAD_S = 600
CONFIGURE_S = 300
BUILD_S = 3600
RUN_S = 600
SHORT_CONTEXT = 128


class Variant(Enum):
    """A build, by its cmake options. NATIVE_NOAMX keeps everything of this processor but AMX."""

    NATIVE = "native"
    NATIVE_NOAMX = "native-noamx"
    AVX2 = "avx2"

    @property
    def options(self) -> dict[str, str]:
        if self is Variant.NATIVE:
            return {"GGML_NATIVE": "ON"}
        if self is Variant.NATIVE_NOAMX:
            # With GGML_NATIVE the GGML_AMX_* options are not looked at: -march=native decides, and these overrule it.
            without = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
            return {"GGML_NATIVE": "ON", "CMAKE_C_FLAGS": without, "CMAKE_CXX_FLAGS": without}
        names = ("GGML_SSE42", "GGML_AVX", "GGML_AVX2", "GGML_FMA", "GGML_F16C", "GGML_BMI2")
        return {"GGML_NATIVE": "OFF", **dict.fromkeys(names, "ON"), "GGML_AVX512": "OFF"}


class Format(Enum):
    """A number format of llama.cpp, under the name it has in file names."""

    BF16 = "bf16"
    Q8_0 = "q8_0"


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """A built llama.cpp. `binaries` holds its programs."""

    binaries: Path
    threads: int

    def bench(
        self, model: Path, *, prompt: int = 0, generate: int = 0, depth: int = 0, huge: bool = False
    ) -> list[float]:
        """llama-bench: tokens a second of the prompt and of generating, those of them that were asked for."""
        argv = ["-m", str(model), "-p", str(prompt), "-n", str(generate), "-d", str(depth), "-r", "1", "-o", "json"]
        rows = json.loads(self._run("llama-bench", argv, huge))
        speeds = {"n_prompt": 0.0, "n_gen": 0.0}
        for row in rows:
            speeds["n_prompt" if row["n_prompt"] else "n_gen"] = float(row["avg_ts"])
        return [speed for speed, asked in zip(speeds.values(), (prompt, generate), strict=True) if asked]

    def batched(
        self,
        model: Path,
        batches: Sequence[int],
        *,
        context: int = SHORT_CONTEXT,
        generate: int = 32,
        huge: bool = False,
    ) -> dict[int, float]:
        """llama-batched-bench: tokens a second of decoding that many sequences together.

        The prompt is computed once and copied to the other sequences (-pps), each of which then has a cache of its own.
        """
        size = max(batches) * (context + generate + 32)
        batch_list = ",".join(map(str, batches))
        argv = ["-m", str(model), "-c", str(size), "-npp", str(context), "-ntg", str(generate), "-npl", batch_list]
        lines = self._run("llama-batched-bench", [*argv, "-pps", "--output-format", "jsonl"], huge).splitlines()
        rows = [json.loads(line) for line in lines if line.startswith('{"n_kv_max"')]
        speeds = {int(row["pl"]): float(row["speed_tg"]) for row in rows}
        if set(speeds) != set(batches):
            raise HostError(f"llama-batched-bench answered for {sorted(speeds)} sequences, not for {sorted(batches)}")
        return speeds

    def server(self, model: Path, port: int) -> list[str]:
        """The command line of llama-server with its default settings, eight slots of 1024 positions."""
        slots = ["-np", "8", "-c", "8192", "-t", str(self.threads)]
        return [str(self.binaries / "llama-server"), "-m", str(model), "--port", str(port), *slots]

    def _run(self, name: str, argv: Sequence[str], huge: bool) -> str:
        whole = [str(self.binaries / name), *argv, "-t", str(self.threads), *(NO_MMAP if huge else ())]
        env = {**os.environ, **(HUGE_PAGES if huge else {})}
        return _run(whole, name, RUN_S, env=env)


def build(variant: Variant, folder: Path, threads: int, say: Callable[[str], None]) -> LlamaCpp:
    """Download and compile what is not there yet. Raises HostError."""
    if variant is Variant.NATIVE_NOAMX and not machine.has_amx():
        say("this processor has no AMX: llama.cpp without AMX is the native build")
        variant = Variant.NATIVE
    place, stamp = folder / variant.value, folder / variant.value / "stamp.json"
    wanted = {"version": PACKAGE_VERSION, "options": {**OPTIONS, **variant.options}, "cpu": machine.isa_flags()}
    said = json.dumps(wanted, sort_keys=True)
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != said:
        sources = _sources(folder, say)
        shutil.rmtree(place, ignore_errors=True)
        _compile(sources, place, variant, threads, say)
        stamp.write_text(said, encoding="utf-8")
    return LlamaCpp(place / "bin", threads)


def convert(directory: Path, kind: Format, folder: Path, peer: LlamaCpp, say: Callable[[str], None]) -> Path:
    """The model directory as a GGUF file in `folder`, made the first time or when the weights are newer."""
    newest = max(path.stat().st_mtime for path in directory.glob("*.safetensors"))
    target = folder / f"{directory.resolve().name}-{kind.value}.gguf"
    if target.exists() and target.stat().st_mtime >= newest:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    if kind is Format.BF16:
        say(f"writing {target.name}")
        gguf.write_gguf(directory, target)
        return target
    source = convert(directory, Format.BF16, folder, peer, say)
    say(f"writing {target.name}")
    part = target.with_suffix(".part")
    argv = [str(peer.binaries / "llama-quantize"), str(source), str(part), kind.value.upper(), str(peer.threads)]
    _run(argv, "llama-quantize", RUN_S)
    part.rename(target)
    return target


def _sources(folder: Path, say: Callable[[str], None]) -> Path:
    """llama.cpp's sources as the package carries them, mended where gcc breaks them."""
    place = folder / f"src-{PACKAGE_VERSION}"
    inside = place / "vendor" / "llama.cpp"
    if inside.exists():
        return inside
    say(f"downloading {PACKAGE} {PACKAGE_VERSION} (its llama.cpp, 75 MB)")
    download = folder / "sdist"
    download.mkdir(parents=True, exist_ok=True)
    argv = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-deps",
    ]
    argv += ["--no-binary", PACKAGE, "--dest", str(download), f"{PACKAGE}=={PACKAGE_VERSION}"]
    _run(argv, f"pip download {PACKAGE}", DOWNLOAD_S)
    archive = next(download.glob("*.tar.gz"), None)
    if archive is None:
        raise HostError(f"pip found no sources of {PACKAGE} {PACKAGE_VERSION}")
    unpacked = folder / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    with tarfile.open(archive) as file:
        file.extractall(unpacked, filter="data")
    amx = next(unpacked.glob(f"*/vendor/llama.cpp/{AMX_SOURCE}"))
    amx.write_text(amx.read_text(encoding="utf-8").replace(AMX_CALL, AMX_MENDED), encoding="utf-8")
    next(unpacked.iterdir()).rename(place)
    return inside


def _compile(sources: Path, place: Path, variant: Variant, jobs: int, say: Callable[[str], None]) -> None:
    if shutil.which("cmake") is None:
        raise HostError("no cmake, which llama.cpp is built with: install cmake")
    compilers = _compilers()
    say(f"building llama.cpp ({place.name}) with {compilers['CMAKE_CXX_COMPILER']}: some minutes")
    given = [f"-D{name}={value}" for name, value in {**OPTIONS, **variant.options, **compilers}.items()]
    _run(["cmake", "-S", str(sources), "-B", str(place), *given], "cmake for llama.cpp", CONFIGURE_S)
    argv = ["cmake", "--build", str(place), "-j", str(jobs), "--target", *BENCHMARKS]
    argv += PROGRAMS if variant is Variant.NATIVE else ()
    _run(argv, "building llama.cpp", BUILD_S)


def _compilers() -> dict[str, str]:
    """clang where it is complete, else gcc. Raises HostError."""
    for c_compiler, cxx_compiler in (("clang", "clang++"), ("gcc", "g++")):
        if shutil.which(c_compiler) and shutil.which(cxx_compiler):
            return {"CMAKE_C_COMPILER": c_compiler, "CMAKE_CXX_COMPILER": cxx_compiler}
    raise HostError("no C++ compiler, which llama.cpp is built with: install g++ or clang")


def _run(argv: Sequence[str], what: str, timeout_s: float, env: Mapping[str, str] | None = None) -> str:
    """stdout of a program that must succeed. Raises HostError with the last line of what it said."""
    options: dict[str, Any] = {"capture_output": True, "text": True, "errors": "replace", "check": False}
    try:
        done = subprocess.run(list(argv), timeout=timeout_s, env=env, stdin=subprocess.DEVNULL, **options)
    except subprocess.TimeoutExpired:
        raise HostError(f"{what} took longer than {timeout_s:.0f} s") from None
    except OSError as problem:
        raise HostError(f"{what}: {problem.strerror}") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        errors = [line for line in said if "error:" in line.lower()] or said[-1:]
        raise HostError(f"{what} failed ({done.returncode}): {errors[0].strip()}")
    return done.stdout
