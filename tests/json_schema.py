"""What a value breaks of a JSON Schema of spec/, by the reference validator, as lines for an assertion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator

from tests.daemons import ROOT


def load(name: str) -> dict[str, Any]:
    """The schema in spec/NAME.schema.json, which must be a valid one."""
    schema = json.loads((ROOT / "spec" / f"{name}.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return dict(schema)


def problems(value: Any, schema: dict[str, Any]) -> Iterator[str]:
    """Each place where `value` is not as `schema` says."""
    for error in Draft202012Validator(schema).iter_errors(value):
        yield f"{error.json_path}: {error.message}"
