"""Columns of a table on a terminal."""

from __future__ import annotations

from llorch.base.terminal import aligned


def test_columns_stand_under_each_other() -> None:
    """As wide as the widest cell, two blanks apart, nothing trails; numbers may end on the right."""
    rows = [("NAME", "N"), ("a", "7"), ("longer", "100")]
    assert aligned(rows) == ["NAME    N", "a       7", "longer  100"]
    assert aligned(rows, left=1) == ["NAME      N", "a         7", "longer  100"]
