"""Progress of a benchmark, for whoever waits: stderr, so that stdout has figures only."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """One line."""
    print(f"==> {text}", file=sys.stderr, flush=True)
