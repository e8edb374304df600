"""The listings, column for column as the seed documents print them. Pure: values in, lines out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llorch.pool.terminal import Terminal

if TYPE_CHECKING:  # listing workers need not load what the catalog needs
    from llorch.wire.catalog import ModelEntry

WIDTH = 80
_CATALOG = (("ID", 15), ("Name", 30), ("Downloaded", 12), ("Size", 10))
_MODELS = (("ID", 15), ("Name", 30), ("Size", 10), ("Path", 0))
_WORKERS = (("ID", 36), ("Backend", 8), ("Model", 10), ("Port", 6), ("PID", 6), ("Status", 0))


def gigabytes(size_bytes: int) -> str:
    """`2.2 GB`, in units of 10^9 bytes."""
    return f"{size_bytes / 1e9:.1f} GB"


def catalog(host: str, entries: Sequence[tuple[ModelEntry, int]], terminal: Terminal) -> list[str]:
    """`models catalog`: every known model with its size in bytes (0 when it is not downloaded)."""
    rows = [(e.id, e.name, terminal.mark(e.downloaded), gigabytes(size)) for e, size in entries]
    return _table(f"Model Catalog for {host}", _CATALOG, rows, f"Total models: {len(rows)}")


def models(host: str, entries: Sequence[tuple[ModelEntry, int, str]]) -> list[str]:
    """`models list`: the downloaded models, their size in bytes and their directory."""
    rows = [(e.id, e.name, gigabytes(size), path) for e, size, path in entries]
    return _table(f"Downloaded Models on {host}", _MODELS, rows, f"Total models: {len(rows)}")


def workers(rows: Sequence[tuple[str, str, str, str, str, str]]) -> list[str]:
    """`worker list`: id, backend, model, port, pid, status of each worker."""
    return _table("Active Workers", _WORKERS, rows, f"Total workers: {len(rows)}")


def _table(title: str, columns: Sequence[tuple[str, int]], rows: Sequence[Sequence[str]], total: str) -> list[str]:
    widths = [max([least, *(len(row[i]) for row in rows)]) for i, (_, least) in enumerate(columns)]
    head = _line([name for name, _ in columns], widths, columns)
    body = [_line(row, widths, columns).rstrip() for row in rows]
    return [title, "=" * WIDTH, head, "-" * WIDTH, *body, "=" * WIDTH, total]


def _line(cells: Sequence[str], widths: Sequence[int], columns: Sequence[tuple[str, int]]) -> str:
    last = [name for name, least in columns if least == 0]  # not padded: nothing follows
    padded = [f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)]
    return " ".join([*padded[:-1], cells[-1]] if last else padded)
