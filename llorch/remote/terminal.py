"""Terminal manners: data on stdout, talk on stderr, no control characters from a model, nothing fancy in a pipe."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from llorch.base.terminal import aligned, shows_utf8

# All but newline and tab: a model's text must not move the cursor or retitle the window.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def tell(message: str) -> None:
    """One line for the person, on stderr."""
    print(f"llorch: {message}", file=sys.stderr, flush=True)


def write(text: str) -> None:
    """A piece of a model's text on stdout, at once; made harmless when it goes to a terminal."""
    sys.stdout.write(_CONTROL.sub("\ufffd", text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def write_json(value: object) -> None:
    """One JSON value as one line on stdout."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def write_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their widest cell, on stdout; control characters in cells are made harmless."""
    cells = [[_CONTROL.sub("\ufffd", str(cell).replace("\n", " ")) for cell in row] for row in [heads, *rows]]
    for line in aligned(cells):
        print(line)


def shown(value: Any) -> str:
    """A value for a cell; a dash when there is none."""
    return "-" if value is None else str(value)


def columns() -> int:
    """Width of the terminal, 80 when there is none."""
    return shutil.get_terminal_size((80, 24)).columns


def for_remote(env: Mapping[str, str]) -> dict[str, str]:
    """What a llorch-pool on another host must know of our terminal, as environment (see its `terminal` module)."""
    facts = {}
    on_terminal = sys.stdout.isatty()
    if on_terminal:
        facts["LLORCH_COLUMNS"] = str(os.get_terminal_size(sys.stdout.fileno()).columns or 80)
    facts["LLORCH_UTF8"] = "1" if on_terminal and shows_utf8(env) else "0"
    if not on_terminal or env.get("NO_COLOR") or env.get("TERM") == "dumb":
        facts["NO_COLOR"] = "1"
    return facts
