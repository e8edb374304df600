"""`llorch policy replay` and `llorch policy simulate`: their arguments; comparison.py does the work."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

DURATION_S = 3600.0


def add_commands(commands: Any) -> None:
    """Add `replay` and `simulate` to the subparsers of `llorch policy`; `run` in the namespace carries one out."""
    declared: tuple[tuple[str, str, Callable[..., None], Callable[..., int]], ...] = (
        ("replay", "recorded jobs under another policy", replay_arguments, replay),
        ("simulate", "drawn jobs over a described fleet", simulate_arguments, simulate),
    )
    for name, text, declare, run in declared:
        parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        declare(parser)
        parser.set_defaults(run=run)


def replay_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch policy replay`."""
    parser.add_argument("--journal", metavar="DB", required=True, help="orchestratord.sqlite, or its directory")
    parser.add_argument("--policy", metavar="NEW.star", help="the script to try (default: the built-in policy)")
    parser.add_argument("--old", metavar="OLD.star", help="the script to compare with (default: the built-in policy)")
    parser.add_argument("--since", metavar="TIME", help="from here on: 24h (ago), 2026-05-01T09:00, or Unix seconds")
    parser.add_argument("--until", metavar="TIME", help="up to here; TIME as for --since")
    _common(parser)


def simulate_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch policy simulate`."""
    parser.add_argument(
        "--fleet", metavar="FLEET.toml", help="workers and arrivals (or a .json file of the same form); see --example"
    )
    parser.add_argument("--example", action="store_true", help="print a fleet file to begin with, and stop")
    parser.add_argument("--policy", metavar="NEW.star", help="a script to compare with the built-in policy")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the arrivals (default 1)")
    parser.add_argument("--duration-s", type=float, default=DURATION_S, metavar="N", help="jobs arrive so long (3600)")
    parser.add_argument("--start", metavar="TIME", help="what time it is then (default 2024-01-01T00:00Z, a Monday)")
    _common(parser)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="llorch.toml with orchestratord's settings")
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")


def replay(arguments: argparse.Namespace) -> int:
    """Recorded jobs under two policies; the exit code. Raises LlorchError."""
    from llorch.orchestratord import comparison  # with the store and the brain: other commands need not wait for it

    return comparison.replay(arguments)


def simulate(arguments: argparse.Namespace) -> int:
    """Drawn jobs under one or two policies; the exit code. Raises LlorchError."""
    from llorch.orchestratord import comparison

    return comparison.simulate(arguments)
