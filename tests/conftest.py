"""Options of the whole suite."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "build"))

import kernels


def pytest_sessionstart() -> None:
    """Workers started from sources use the native kernels of these sources."""
    kernels.build_all()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Seeds of the simulation, and rewriting of the recorded transcripts."""
    parser.addoption("--seeds", type=int, default=500, help="how many simulated histories to run")
    parser.addoption("--seed", type=int, default=None, help="run this one history")
    parser.addoption("--rewrite", action="store_true", help="write the transcripts anew; then read the diff")
