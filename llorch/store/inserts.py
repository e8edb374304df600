"""Writing many rows: those of the two tables that every job fills go in together, many to a statement.

Between two statements the writer thread takes the interpreter's lock, and for that it waits behind everything else that
this process does: under load that costs more than the writing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from llorch.store.statements import sql, sql_of_rows

Row = tuple[str, dict[str, object]]

TOGETHER = ("put_job", "put_decision")
"""Statements that touch no row of each other and of none else, so that only the order among their own rows counts."""
ROWS_MAX = 64


def write(rows: Sequence[Row], connection: sqlite3.Connection) -> None:
    """Run the named statements with their values. Raises sqlite3.Error."""
    for name in TOGETHER:
        _insert(connection, name, [values for wanted, values in rows if wanted == name])
    for name, values in rows:
        if name not in TOGETHER:
            connection.execute(sql(name), values)


def _insert(connection: sqlite3.Connection, name: str, rows: list[dict[str, object]]) -> None:
    for at in range(0, len(rows), ROWS_MAX):
        part = rows[at : at + ROWS_MAX]
        text, columns = sql_of_rows(name, len(part))
        connection.execute(text, [values[column] for values in part for column in columns])
