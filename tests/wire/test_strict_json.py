"""Strict JSON: whatever comes in, the answer is a value or InvalidRequest."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llorch.base.errors import InvalidRequest
from llorch.wire import strict_json

BAD = {
    "empty": b"",
    "blank": b"  \n",
    "not json": b"{",
    "nan": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "overflow": b'{"a": 1e999}',
    "twice": b'{"a": 1, "a": 2}',
    "twice nested": b'{"b": {"a": 1, "a": 2}}',
    "surrogate": b'{"a": "\\ud800"}',
    "surrogate key": b'{"\\udfff": 1}',
    "bad utf-8": b'{"a": "\xff"}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep closed": b'{"a":' * 80 + b"1" + b"}" * 80,
    "digits": b'{"a": ' + b"9" * 100_000 + b"}",
    "list": b"[1]",
    "text": b'"x"',
    "trailing": b"{} {}",
}


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str) -> None:
    """Everything json.loads lets through wrongly, and everything that is not an object, is InvalidRequest."""
    with pytest.raises(InvalidRequest):
        strict_json.parse_object(BAD[name])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), json_values))
def test_good_json_is_read_as_it_is(value: dict[str, object]) -> None:
    """Any JSON object without surrogates reads back equal, however it was escaped."""
    try:
        dumped = strict_json.dump(value)
    except UnicodeEncodeError:
        return
    assert strict_json.parse_object(dumped) == value
    assert strict_json.parse_object(json.dumps(value).encode()) == value


@given(st.binary(max_size=200))
def test_never_another_error(data: bytes) -> None:
    """Any bytes give a value or InvalidRequest, never any other error."""
    try:
        strict_json.parse(data)
    except InvalidRequest:
        pass
