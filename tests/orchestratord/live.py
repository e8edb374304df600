"""The live configuration of a file, as a daemon without flags and environment would have it."""

from __future__ import annotations

from pathlib import Path

from llorch.orchestratord.configuration import Given, read
from llorch.orchestratord.live_configuration import LiveConfiguration


def live(path: Path, state_dir: Path) -> LiveConfiguration:
    """Raises ConfigError."""
    started = Given({}, {}, path, state_dir, must_exist=False)
    return LiveConfiguration(started, read(started))
