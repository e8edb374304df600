"""Frozen dataclasses to JSON text and back, for the `record` columns.

A reader tolerates what an older or newer writer did: unknown keys are dropped, missing ones take the field's default.
What is the field's default is not written, so the default of a stored field means the same for ever.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Callable
from enum import Enum
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar

from llorch.base import json_text
from llorch.base.errors import HostError

T = TypeVar("T")


class DamagedRecord(HostError):
    """A stored record cannot be read."""


_TO_JSON = json_text.prepared(allow_nan=True)


def encode(value: object, *, leave_out: tuple[str, ...] = ()) -> str:
    """`value` (a dataclass) as compact JSON; `leave_out` names fields that are not written, at any depth."""
    cls: Any = type(value)
    plain = _flattener(cls, leave_out)
    assert plain is not None, "only a dataclass is a record"
    return _TO_JSON(plain(value))


@cache
def _names(cls: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls))


Flatten = Callable[[Any], Any]


@cache
def _flattener(hint: Any, leave_out: tuple[str, ...]) -> Flatten | None:
    """What makes a value of type `hint` fit for JSON; None: it is already."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _dataclass_flattener(hint, leave_out)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return attrgetter("value")
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = _flattener(next(arg for arg in args if arg is not type(None)), leave_out)
        return inner and (lambda value: None if value is None else inner(value))
    if origin is tuple:
        items = [_flattener(arg, leave_out) for arg in args if arg is not Ellipsis]
        if not any(items):
            return None
        if len(items) == 1 and (item := items[0]) is not None:
            return lambda value: [item(part) for part in value]
        pairs = [item or _as_it_is for item in items]
        return lambda value: [item(part) for item, part in zip(pairs, value, strict=True)]
    return None


def _as_it_is(value: Any) -> Any:
    return value


def _dataclass_flattener(cls: type, leave_out: tuple[str, ...]) -> Flatten:
    """Reads all fields at once and looks again only at those that JSON does not know: there is one row per job.

    The very value that a reader puts for a missing field is not written; one that only equals it may be.
    """
    hints = typing.get_type_hints(cls)
    names = tuple(name for name in _names(cls) if name not in leave_out)
    found = [(name, _flattener(hints[name], leave_out)) for name in names]
    inner = [(name, flatten) for name, flatten in found if flatten is not None]
    if len(names) == 1:
        return lambda value: {names[0]: (found[0][1] or _as_it_is)(getattr(value, names[0]))}
    values = attrgetter(*names)
    defaults = tuple(field.default for field in dataclasses.fields(cls) if field.name in names)

    def flatten(value: Any) -> dict[str, Any]:
        found = zip(names, values(value), defaults, strict=True)
        plain = {name: part for name, part, default in found if part is not default}
        for name, deeper in inner:
            if name in plain:
                plain[name] = deeper(plain[name])
        return plain

    return flatten


def decode(cls: type[T], text: str, **given: Any) -> T:
    """The `cls` that `encode` wrote; `given` fills fields that were left out, at the depth where they are missing.

    Raises DamagedRecord.
    """
    hint: Any = cls
    try:
        value: T = _builder(hint)(json.loads(text), given)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        way_out = "restore the database of the state directory from a copy, or move it away to start anew"
        raise DamagedRecord(f"a stored {cls.__name__} cannot be read: {way_out}") from error
    return value


Build = Callable[[Any, dict[str, Any]], Any]


@cache
def _builder(hint: Any) -> Build:
    """How a JSON value becomes a value of type `hint`; the second argument holds the left-out fields."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _dataclass_builder(hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return lambda raw, given: hint(raw)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = _builder(next(arg for arg in args if arg is not type(None)))
        return lambda raw, given: None if raw is None else inner(raw, given)
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            item = _builder(args[0])
            return lambda raw, given: tuple(item(part, given) for part in raw)
        items = [_builder(arg) for arg in args]
        return lambda raw, given: tuple(item(part, given) for item, part in zip(items, raw, strict=True))
    return lambda raw, given: raw


def _dataclass_builder(cls: type) -> Build:
    hints = typing.get_type_hints(cls)
    builders = {name: _builder(hints[name]) for name in _names(cls)}

    def build(raw: Any, given: dict[str, Any]) -> Any:
        values = {name: build_one(raw[name], given) for name, build_one in builders.items() if name in raw}
        missing = {name: value for name, value in given.items() if name in builders and name not in values}
        return cls(**values, **missing)

    return build
