"""A part of llorch.toml that holds while orchestratord runs: read at start, and again when the file changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from llorch.base import config, log
from llorch.base.errors import ConfigError
from llorch.base.file_mark import file_mark

logger = log.get(__name__)
T = TypeVar("T")


class SectionFile(Generic[T]):
    """What the file says, as `parse` understands it; `current` is what holds."""

    def __init__(
        self,
        path: Path,
        parse: Callable[[Mapping[str, Any]], T],
        *,
        name: str,
        counts: Callable[[T], Mapping[str, int]],
    ) -> None:
        """A file that is not there says nothing; `name` and `counts` are for the log. Raises ConfigError."""
        self._path, self._parse, self._name, self._counts = path, parse, name, counts
        self._seen = file_mark(path)
        self.current = parse(config.load_file(path))

    def news(self) -> T | None:
        """What holds now, when the file has changed and says something else. Asks the file system only."""
        mark = file_mark(self._path)
        if mark == self._seen or mark is None:
            return None  # a file that is gone may be about to be replaced: what it said holds
        self._seen = mark
        return self.read_again()

    def read_again(self) -> T | None:
        """What holds now, when the file says something else; one that cannot be used is logged and changes nothing."""
        try:
            found = self._parse(config.load_file(self._path, must_exist=self._seen is not None))
        except ConfigError as error:
            log.event(logger, f"{self._name} stay as they were: {error.message}", level=40)
            return None
        if found == self.current:
            return None
        self.current = found
        log.event(logger, f"{self._name} were read again", **self._counts(found))
        return found
