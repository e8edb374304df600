"""The named statements of `queries.sql`; SQL text is nowhere else."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

_NAME = re.compile(r"^-- name: ([a-z_]+)\n", re.MULTILINE)
_ROW = re.compile(r"VALUES \(([:a-z_, ]+)\)")


def script(name: str) -> str:
    """The text of a schema script that lies beside this module."""
    return resources.files("llorch.store").joinpath(name).read_text(encoding="utf-8")


@cache
def statements() -> dict[str, str]:
    """Every statement by its name."""
    _, *parts = _NAME.split(script("queries.sql"))
    return dict(zip(parts[::2], (text.strip() for text in parts[1::2]), strict=True))


def sql(name: str) -> str:
    """One statement. A name that does not exist is our bug: KeyError."""
    return statements()[name]


@cache
def sql_of_rows(name: str, count: int) -> tuple[str, tuple[str, ...]]:
    """An INSERT of one row, made one of so many: its values have no names any more, but follow in this order."""
    found = _ROW.search(sql(name))
    assert found is not None, f"{name} inserts no row"
    columns = tuple(part.strip(": ") for part in found[1].split(","))
    row = "(" + ", ".join("?" * len(columns)) + ")"
    return sql(name).replace(found[0], "VALUES " + ", ".join([row] * count)), columns
