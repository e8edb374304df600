"""The prepared JSON encoder writes what `json.dumps` writes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llorch.base import json_text

VALUES: tuple[Any, ...] = (
    {"text": 'é "quoted" \\ \n\x00\x1f\x7f \u2028', "none": None, "yes": True, "list": [1, -2.5, 1e300, [], {}]},
    {1: "a number is a key", "nested": {"deep": [{"er": ()}]}},
    [],
    "text",
    7,
    None,
)


@pytest.mark.parametrize("value", VALUES)
def test_it_writes_what_json_writes(value: Any) -> None:
    """No spaces, no ASCII escapes, and nothing else differs from the json module."""
    expected = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert json_text.prepared(allow_nan=False)(value) == expected
    assert json_text.prepared(allow_nan=True)(value) == expected


def test_what_is_not_json_is_refused() -> None:
    """NaN unless it is allowed, and what is no plain value."""
    strict = json_text.prepared(allow_nan=False)
    with pytest.raises(ValueError, match="not JSON compliant"):
        strict([float("nan")])
    assert json_text.prepared(allow_nan=True)([float("nan")]) == "[NaN]"
    with pytest.raises(TypeError):
        strict({"x": object()})
