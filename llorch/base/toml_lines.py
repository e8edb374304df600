"""On which line of a TOML text each key stands: the parser of the standard library does not say."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

Key = tuple[str, ...]
# A value that goes on for longer is not looked through: finding its end costs the square of its lines.
STATEMENT_LINES_MAX = 500


def lines_of(text: str) -> dict[Key, int]:
    """The first line (from 1) of every key and every section of a text that is good TOML."""
    found: dict[Key, int] = {}
    section: Key = ()
    rows = text.splitlines()
    at = 0
    while at < len(rows):
        statement, end = _statement(rows, at)
        is_header = rows[at].lstrip().startswith("[")
        for key in _keys(statement):
            place = key if is_header else section + key
            for length in range(1, len(place) + 1):
                found.setdefault(place[:length], at + 1)
            if is_header:
                section = key
        at = end
    return found


def line_of(lines: Mapping[Key, int], key: Key) -> int | None:
    """The line of a key, else of what it stands in."""
    return next((lines[key[:length]] for length in range(len(key), 0, -1) if key[:length] in lines), None)


def _statement(rows: list[str], at: int) -> tuple[dict[str, Any], int]:
    """The table that the statement beginning here makes by itself, and the row after it."""
    for end in range(at + 1, min(len(rows), at + STATEMENT_LINES_MAX) + 1):
        try:
            return tomllib.loads("\n".join(rows[at:end])), end
        except tomllib.TOMLDecodeError:
            continue
    return {}, at + 1


def _keys(table: Mapping[str, Any], above: Key = ()) -> Iterator[Key]:
    """The paths that a statement names, down to values and empty tables."""
    for name, value in table.items():
        inner = value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else value
        if isinstance(inner, dict) and inner:
            yield from _keys(inner, (*above, name))
        else:
            yield (*above, name)
