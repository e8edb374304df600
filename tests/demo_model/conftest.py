"""The demo model's build scripts are no package: they import each other by plain name, and so do these tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "build" / "demo_model"))


@pytest.fixture(scope="session")
def demo_directory() -> Path:
    """The model directory that ships."""
    return ROOT / "llorch" / "assets" / "demo"
