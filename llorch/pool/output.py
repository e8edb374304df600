"""The few things every command prints with."""

from __future__ import annotations

import json
import os
import sys

from llorch.base.errors import UsageError


def host_name() -> str:
    """This host's name, as listings show it."""
    return os.uname().nodename


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def confirmed(question: str, flag: str) -> bool:
    """Ask on a terminal; raises UsageError, naming the flag that answers, when there is nobody to ask."""
    if not sys.stdin.isatty():
        raise UsageError(f"nobody to ask: add {flag} to do it without a question ({question})")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
