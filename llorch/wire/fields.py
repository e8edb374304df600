"""Checking the fields of one JSON object: collects every problem, so that a client sees all of them at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, TypeVar

from llorch.base.errors import InvalidRequest

T = TypeVar("T")


class Unknown(Enum):
    REFUSE = "refuse"
    IGNORE = "ignore"


class Fields:
    """Reads typed fields from `body`; `done()` raises one InvalidRequest that lists all problems.

    Problems name the field and the rule, never the value: prompts must not be echoed.
    """

    def __init__(self, body: Mapping[str, Any], known: Collection[str], unknown: Unknown = Unknown.REFUSE) -> None:
        self._body = body
        self.problems: list[dict[str, str]] = []
        if unknown is Unknown.REFUSE:
            for name in body:
                if name not in known:
                    import difflib

                    close = difflib.get_close_matches(name, known, n=1)
                    hint = f"; did you mean '{close[0]}'?" if close else ""
                    self.problem(name[:64], f"unknown field{hint}")

    def problem(self, field: str, message: str) -> None:
        """Note a problem with `field`."""
        self.problems.append({"field": field, "message": message})

    def has(self, name: str) -> bool:
        """True when the field is present and not null."""
        return self._body.get(name) is not None

    def among(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that are present and not null."""
        return [name for name in names if self._body.get(name) is not None]

    def raw(self, name: str) -> Any:
        """The value as it came; None when absent."""
        return self._body.get(name)

    def _wrong(self, name: str, expected: str) -> None:
        self.problem(name, f"must be {expected}")

    def text(self, name: str, *, size_max: int | None = None) -> str | None:
        """A string, or None; `size_max` counts UTF-8 bytes."""
        value = self._body.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            self._wrong(name, "a string")
            return None
        if size_max is not None and len(value.encode("utf-8")) > size_max:
            self.problem(name, f"must be at most {size_max} bytes")
            return None
        return value

    def required_text(self, name: str, *, size_max: int | None = None) -> str:
        """A string that must be there."""
        if not self.has(name):
            self.problem(name, "is required")
        return self.text(name, size_max=size_max) or ""

    def pattern(self, name: str, rule: Any) -> str | None:
        """A string that `rule` (a compiled pattern) matches in full."""
        value = self.text(name)
        if value is not None and not rule.fullmatch(value):
            self.problem(name, f"must match {rule.pattern}")
            return None
        return value

    def integer(self, name: str, low: int, high: int) -> int | None:
        """An integer in [low, high]; a float with no fraction is not accepted."""
        value = self._body.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            self._wrong(name, "an integer")
            return None
        if not low <= value <= high:
            self.problem(name, f"must be between {low} and {high}")
            return None
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        """A number in [low, high]."""
        value = self._body.get(name)
        if value is None:
            return None
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            self._wrong(name, "a number")
            return None
        if not low <= value <= high:
            self.problem(name, f"must be between {low:g} and {high:g}")
            return None
        return float(value)

    def switch(self, name: str) -> bool:
        """true or false; absent is false."""
        value = self._body.get(name)
        if value is not None and not isinstance(value, bool):
            self._wrong(name, "true or false")
        return value is True

    def choice(self, name: str, known: Sequence[str]) -> str | None:
        """One of `known`."""
        value = self.text(name)
        if value is not None and value not in known:
            self.problem(name, "must be one of " + ", ".join(known))
            return None
        return value

    def texts(self, name: str, *, count_max: int, size_max: int | None = None) -> tuple[str, ...]:
        """A list of strings, each of at most `size_max` UTF-8 bytes; absent is empty."""
        value = self._body.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self._wrong(name, "a list of strings")
            return ()
        if len(value) > count_max:
            self.problem(name, f"must have at most {count_max} items")
            return ()
        if size_max is not None and any(len(item.encode("utf-8")) > size_max for item in value):
            self.problem(name, f"must have items of at most {size_max} bytes")
            return ()
        return tuple(value)

    def done(self) -> None:
        """Raise InvalidRequest when there was any problem."""
        if self.problems:
            first = self.problems[0]
            more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
            raise InvalidRequest(
                f"{first['field']}: {first['message']}{more}", details={"problems": self.problems[:32]}
            )
