"""What the output may look like: width, colour, check marks, a moving progress bar.

Decided from this process's own terminal, unless the caller says so by environment. `llorch pool … --host H` runs this
program without a terminal of its own and passes its caller's facts on:

- `LLORCH_COLUMNS=N`  the output ends on a terminal N columns wide (set only then); a moving progress bar is welcome
- `LLORCH_UTF8=1|0`   that terminal shows UTF-8, or does not
- `NO_COLOR` (any value but empty)  no colours, as everywhere
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

from llorch.base.terminal import shows_utf8

COLUMNS_DEFAULT = 80


@dataclass(frozen=True, slots=True)
class Terminal:
    """`interactive` means that somebody watches: progress may be redrawn in place."""

    columns: int
    utf8: bool
    colour: bool
    interactive: bool

    def mark(self, yes: object) -> str:
        """A check mark or a cross; yes or no where those cannot be shown."""
        if self.utf8:
            return "✅" if yes else "❌"
        return "yes" if yes else "no"


def look(env: Mapping[str, str], out: TextIO, err: TextIO) -> Terminal:
    """The terminal behind `out`, or the caller's as `env` describes it."""
    passed_on = env.get("LLORCH_COLUMNS", "")
    columns = int(passed_on) if passed_on.isdecimal() and 0 < int(passed_on) < 10_000 else 0
    on_terminal = bool(columns) or out.isatty()
    interactive = bool(columns) or (err.isatty() and env.get("TERM") != "dumb")
    utf8 = env["LLORCH_UTF8"] == "1" if "LLORCH_UTF8" in env else on_terminal and shows_utf8(env)
    colour = on_terminal and not env.get("NO_COLOR") and env.get("TERM") != "dumb"
    return Terminal(columns or _own_columns(out), utf8, colour, interactive)


def _own_columns(out: TextIO) -> int:
    try:
        return os.get_terminal_size(out.fileno()).columns or COLUMNS_DEFAULT
    except (OSError, ValueError):
        return COLUMNS_DEFAULT


def prepare_streams(terminal: Terminal) -> None:
    """Make stdout and stderr able to print any name: what the terminal cannot show becomes '?'."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(**({"encoding": "utf-8"} if terminal.utf8 else {}), errors="replace")
