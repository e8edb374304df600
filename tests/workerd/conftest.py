"""Real worker processes on free ports, serving a tiny random Llama."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from worker_rig import Starter, Worker, environment, starting, write_model


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory named `tiny`."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    directory.mkdir()
    write_model(directory)
    return directory


@pytest.fixture(scope="session")
def worker(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """One worker with eight slots that many tests share; each leaves its slots free."""
    with starting(tmp_path_factory.mktemp("shared")) as start:
        yield start("--model", str(model_dir), "--slots", "8")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Start workers of one's own."""
    with starting(tmp_path) as starter:
        yield starter


@pytest.fixture
def run_worker(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a worker that is expected to end by itself."""

    def run(*flags: str, **env: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "llorch", "worker", *flags]
        return subprocess.run(
            argv, env={**environment(tmp_path), **env}, capture_output=True, text=True, timeout=60, check=False
        )

    return run
