"""A small validator for the part of JSON Schema that spec/*.schema.json uses; an unknown keyword fails the test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_COMMENTS = {"$schema", "title", "description"}
_KEYWORDS = {"type", "required", "properties", "items", "enum", "minimum"}


def problems(value: Any, schema: dict[str, Any], where: str = "$") -> Iterator[str]:
    """Each place where `value` is not as `schema` says."""
    unknown = set(schema) - _KEYWORDS - _COMMENTS
    assert not unknown, f"the validator does not know {unknown}"
    named = schema.get("type")
    if named is not None and not any(_is(value, name) for name in ([named] if isinstance(named, str) else named)):
        yield f"{where} is no {named}: {value!r}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where} is none of {schema['enum']}: {value!r}"
    if "minimum" in schema and value is not None and value < schema["minimum"]:
        yield f"{where} is below {schema['minimum']}: {value!r}"
    if isinstance(value, dict):
        yield from (f"{where}.{name} is missing" for name in schema.get("required", ()) if name not in value)
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                yield from problems(value[name], inner, f"{where}.{name}")
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from problems(item, schema["items"], f"{where}[{index}]")


def _is(value: Any, name: str) -> bool:
    return isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))
