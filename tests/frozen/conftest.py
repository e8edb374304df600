"""The frozen file and places to run it in."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from bare_host import PROGRAM, Host


@pytest.fixture(scope="session")
def program() -> Path:
    """build/out/llorch, as `./install.sh test` leaves it."""
    if not PROGRAM.is_file():
        pytest.skip("no frozen file: ./install.sh builds it")
    return PROGRAM


@pytest.fixture(scope="session")
def loaded(program: Path) -> Iterator[tuple[Path, subprocess.CompletedProcess[str]]]:
    """A cache with everything in it, for tests that need torch, and the run that filled it."""
    folder = Path(tempfile.mkdtemp(prefix="llorch-frozen-cache-"))
    env = {"LLORCH_CACHE": str(folder), "HOME": str(folder)}
    try:
        yield folder, subprocess.run([str(program), "self", "check"], env=env, capture_output=True, text=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def host(program: Path) -> Iterator[Host]:
    """A fresh host; removed at once, for an unpacked torch is too big for pytest's keeping of old folders."""
    folder = Path(tempfile.mkdtemp(prefix="llorch-frozen-"))
    try:
        yield Host(folder, program)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
