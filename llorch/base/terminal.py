"""What a person at a terminal sees: what the terminal can show, and columns that stand under each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def shows_utf8(env: Mapping[str, str]) -> bool:
    """Does the locale promise UTF-8? Python itself speaks it in the C locale, too; the terminal may not."""
    named = env.get("LC_ALL") or env.get("LC_CTYPE") or env.get("LANG") or ""
    return named.lower().replace("-", "").endswith("utf8")


def aligned(rows: Sequence[Sequence[str]], *, left: int | None = None) -> list[str]:
    """The rows as lines, each column as wide as its widest cell; all but the first `left` columns end on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if left is None or at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
