"""One strict JSON reader for everything that comes from outside.

Refuses what `json.loads` lets through: NaN and infinities, duplicate keys, lone surrogates, absurd depth and digits.
"""

from __future__ import annotations

import json
from typing import Any

from llorch.base import json_text
from llorch.base.errors import InvalidRequest

DEPTH_MAX = 64
_DIGITS_MAX = 400


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InvalidRequest(f"the JSON body has the key {_quote(twice)} twice")
    return value


def _quote(key: str) -> str:
    return "'" + key.encode("ascii", "backslashreplace").decode()[:64] + "'"


def _constant(name: str) -> Any:
    raise InvalidRequest(f"the JSON body has {name}, which is not JSON")


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS_MAX:
        raise InvalidRequest("the JSON body has a number that is too long")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise InvalidRequest("the JSON body has a number that is too large")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant, parse_int=_integer, parse_float=_number)
_ENCODE = json_text.prepared(allow_nan=False)


def parse(data: bytes) -> Any:
    """The JSON value in `data` (UTF-8). Raises InvalidRequest; never any other error."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest("the body is not UTF-8") from None
    if text.startswith("\ufeff"):
        raise InvalidRequest("the body starts with a byte order mark; send plain UTF-8 JSON")
    if not text.strip():
        raise InvalidRequest("the body is empty; a JSON object is expected")
    try:
        value = _DECODER.decode(text)
        # Depth needs brackets, and only an escape can hold a surrogate.
        if b"\\u" in data or data.count(b"{") + data.count(b"[") > DEPTH_MAX:
            _check(value)
    except RecursionError:
        raise InvalidRequest("the JSON body is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    return value


def _check(value: Any, depth: int = 0) -> None:
    if depth > DEPTH_MAX:
        raise InvalidRequest("the JSON body is nested too deeply")
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_text(key)
            _check(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, depth + 1)


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidRequest("the JSON body has text with a lone surrogate") from None


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`. Raises InvalidRequest when it is anything else."""
    value = parse(data)
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    return value


def dump(value: object) -> bytes:
    """Compact UTF-8 JSON."""
    return _ENCODE(value).encode("utf-8")
