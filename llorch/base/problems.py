"""What is wrong with a configuration, gathered, so that one look tells all of it and not only the first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llorch.base.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Problem:
    """One line of text; `key` is where it stands in the file, () when it is not there (a flag, the environment)."""

    message: str
    key: tuple[str, ...] = ()


class Problems:
    """Gathers them, in the order found."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, message: str, *key: str) -> None:
        """One more; the same twice is one."""
        if (problem := Problem(message, key)) not in self.found:
            self.found.append(problem)

    @contextmanager
    def at(self, *key: str) -> Iterator[None]:
        """A ConfigError inside is a problem at this place of the file, and what follows the block goes on."""
        try:
            yield
        except ConfigError as error:
            self.add(error.message, *key)

    def must_be_none(self, path: Path | None = None) -> None:
        """Raises ConfigError with the first one, named after the file, and how many more there are."""
        if not self.found:
            return
        first, more = self.found[0], len(self.found) - 1
        file = "config file" if path is None else f"config file {path}"
        others = f" (and {more} more: 'llorch config check' tells all)" if more else ""
        raise ConfigError((f"{file}: {first.message}" if first.key else first.message) + others)
