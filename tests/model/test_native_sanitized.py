"""The C++ under the compilers' sanitizers: odd shapes through the engine, the team in runs of any size."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from variants import RUN_BY_EMULATION, build

from llorch.model import hardware

HERE = Path(__file__).parent / "sanitized"
UNDEFINED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
FLAGS = ("-std=c++20", "-O1", "-g", "-pthread", "-ffp-contract=off", "-Wno-psabi", "-Wno-ignored-attributes")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(tmp_path: Path, source: str, flags: tuple[str, ...], *arguments: str) -> None:
    """Compile and run; what a sanitizer finds ends it with its words."""
    if build.compiler() is None:
        pytest.skip("no C++ compiler for this machine")
    command = [
        str(build.compiler()),
        *FLAGS,
        *flags,
        f"-I{build.SOURCES}",
        str(HERE / source),
        "-o",
        str(tmp_path / "check"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "cannot find" in done.stderr:
        pytest.skip("the compiler has no sanitizers")
    assert done.returncode == 0, done.stderr
    done = subprocess.run([str(tmp_path / "check"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("variant", ["avx2", "avx512", "emulated"])
def test_odd_shapes_read_and_write_where_they_may(variant: str, tmp_path: Path) -> None:
    """Nothing beyond the matrices handed in, no undefined arithmetic, and the same bits chunked, batched and alone."""
    if variant != "avx2" and not hardware.cpu_flags().issuperset(RUN_BY_EMULATION):
        pytest.skip("this processor lacks AVX512 with bf16 and VNNI")
    flags = build.EMULATED if variant == "emulated" else build.VARIANTS[variant]
    run(tmp_path, "engine_check.cpp", (*UNDEFINED, *flags), "25", "7")


def test_the_team_has_no_races(tmp_path: Path) -> None:
    """Members that join, sit out, and are sent home asleep: each job runs once on each, no barrier opens early."""
    run(tmp_path, "team_check.cpp", ("-fsanitize=thread", "-march=x86-64-v3"), "4", "2000")
