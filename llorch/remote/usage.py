"""`llorch usage`: what your tenant took by day, and what it has now."""

from __future__ import annotations

import argparse

from llorch.base.errors import UsageError
from llorch.remote import orchestrator, terminal

DAYS = 7
DAYS_MAX = 400


def usage_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch usage`."""
    parser.add_argument("--days", type=int, default=DAYS, metavar="N", help=f"today and N-1 before (default {DAYS})")
    orchestrator.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def usage(arguments: argparse.Namespace) -> int:
    """Days in UTC, the newest first; then jobs and tokens of this moment."""
    if not 1 <= arguments.days <= DAYS_MAX:
        raise UsageError(f"--days must be from 1 to {DAYS_MAX}")
    found = orchestrator.connect(arguments).usage(arguments.days)
    if arguments.json:
        terminal.write_json(found)
        return 0
    tenants = found.get("tenants", ())
    days = [
        (tenant["tenant"], *(day[key] for key in ("day", "jobs", "prompt_tokens", "tokens_out")))
        for tenant in tenants
        for day in tenant["days"]
    ]
    terminal.write_table(["TENANT", "DAY", "JOBS", "PROMPT TOKENS", "GENERATED"], days)
    terminal.write("\n")
    now = [
        (
            tenant["tenant"],
            *(tenant["now"][key] for key in ("running", "waiting", "reserved_tokens")),
            terminal.shown(tenant["limits"]["tokens_per_day"]),
        )
        for tenant in tenants
    ]
    terminal.write_table(["TENANT", "RUNNING", "WAITING", "RESERVED TOKENS", "TOKENS A DAY"], now)
    return 0
