"""The few things every command prints with."""

from __future__ import annotations

import json
import os


def host_name() -> str:
    """This host's name, as listings show it."""
    return os.uname().nodename


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=2))
