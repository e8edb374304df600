"""`measured.json`: what workers of this host were seen to take of its memory, per model and shape.

Each row was taken when a worker had just become ready: weights, program and the cache that was touched by then. It may
be lost at any time; then the next fit check goes by an estimate again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llorch.base.clock import iso
from llorch.base.errors import HostError
from llorch.base.home import Home
from llorch.host import disk
from llorch.wire.catalog import ModelEntry

_ROWS_MAX = 512


@dataclass(frozen=True, slots=True)
class Shape:
    """What a worker's memory depends on beside its model; None: left to the worker."""

    backend: str
    dtype: str | None = None
    quantize: str | None = None
    kernels: str | None = None
    slots: int | None = None
    context: int | None = None
    kv_mib: int | None = None

    @classmethod
    def of(cls, backend: str, flags: Mapping[str, Any]) -> Shape:
        """The shape that the flags of `worker spawn` ask for."""
        names = ("dtype", "quantize", "kernels", "slots", "context", "kv_mib")
        return cls(backend, **{name: flags.get(name) for name in names})


@dataclass(frozen=True, slots=True)
class Measured:
    """`memory_bytes` that a worker took; `slots_total` and `context_length` are what it made of its shape."""

    model: str
    revision: str
    shape: Shape
    slots_total: int
    context_length: int
    memory_bytes: int
    measured_at: str

    def to_body(self) -> dict[str, Any]:
        """The row as stored and as shown."""
        body = {**asdict(self), **asdict(self.shape)}
        del body["shape"]
        return body


def of_model(home: Home, entry: ModelEntry) -> list[Measured]:
    """The rows of a model's present files."""
    return [row for row in _load(home) if (row.model, row.revision) == (entry.id, entry.revision)]


def find(home: Home, entry: ModelEntry, shape: Shape) -> Measured | None:
    """The row of exactly this shape."""
    return next((row for row in of_model(home, entry) if row.shape == shape), None)


def remember(home: Home, entry: ModelEntry, shape: Shape, health: Mapping[str, Any], memory_bytes: int) -> None:
    """Keep what a worker that has just become ready takes; it replaces an older row of the same shape."""
    row = Measured(
        model=entry.id,
        revision=entry.revision,
        shape=shape,
        slots_total=int(health.get("slots_total") or 0),
        context_length=int(health.get("context_length") or 0),
        memory_bytes=memory_bytes,
        measured_at=iso(time.time()),
    )
    with disk.locked(home.measured_path.with_name(".measured.lock")):
        kept = [old for old in _load(home) if (old.model, old.shape) != (row.model, row.shape)]
        rows = [known.to_body() for known in (*kept, row)][-_ROWS_MAX:]
        disk.write_json(home.measured_path, {"version": 1, "rows": rows})


def describe(body: Mapping[str, Any]) -> str:
    """One stored row for people."""
    from llorch.pool.progress import megabytes

    how = [str(body[name]) for name in ("dtype", "quantize", "kernels") if body.get(name)]
    where = ", ".join([body["backend"], *how])
    size = f"{body['slots_total']} slots of {body['context_length']} positions"
    return f"{megabytes(body['memory_bytes'])} ({where}, {size}, {body['measured_at']})"


def _load(home: Home) -> list[Measured]:
    """Every readable row; what cannot be read is left out, it will be measured again."""
    try:
        rows = json.loads(home.measured_path.read_bytes())["rows"]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HostError(f"cannot read {home.measured_path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        return []
    found = []
    for row in rows if isinstance(rows, list) else ():
        try:
            found.append(_parse(row))
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    return found


def _parse(row: Mapping[str, Any]) -> Measured:
    return Measured(
        model=str(row["model"]),
        revision=str(row["revision"]),
        shape=Shape.of(str(row["backend"]), row),
        slots_total=int(row["slots_total"]),
        context_length=int(row["context_length"]),
        memory_bytes=int(row["memory_bytes"]),
        measured_at=str(row["measured_at"]),
    )
