"""The configuration that holds while orchestratord runs: llorch.toml is read again when it changes and on SIGHUP.

A file that cannot be used never takes the place of one that could; what is wrong is logged once and told until mended.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from enum import Enum

from llorch.base import log
from llorch.base.errors import ConfigError
from llorch.base.file_mark import file_mark
from llorch.base.settings import Change
from llorch.orchestratord import changes, configuration
from llorch.orchestratord.configuration import Configuration, Given
from llorch.orchestratord.metrics import Counter

logger = log.get(__name__)


class Condition(Enum):
    """How what holds and the file agree."""

    GOOD = "ok"
    DEGRADED = "degraded"  # the file cannot be used
    RESTART_NEEDED = "restart_needed"  # some of it counts after a restart


class LiveConfiguration:
    """`current` is what holds; `waiting` names the settings of the file that a restart would change."""

    def __init__(self, started: Given, first: Configuration) -> None:
        self.started, self.current = started, first
        self.last_error: str | None = None
        self.waiting = ""
        self.readings = Counter("llorch_config_readings_total", "Times that llorch.toml was read again.", "outcome")
        self._seen = first.mark

    @property
    def condition(self) -> Condition:
        """Shown by /health."""
        if self.last_error is not None:
            return Condition.DEGRADED
        return Condition.RESTART_NEEDED if self.waiting else Condition.GOOD

    def news(self) -> Configuration | None:
        """What held before, when the file has changed and something else holds. Asks the file system only."""
        mark = file_mark(self.started.path)
        if mark == self._seen or mark is None:
            return None  # a file that is gone may be about to be replaced: what it said holds
        return self.read_again()

    def read_again(self) -> Configuration | None:
        """What held before, when something else holds now; a file that cannot be used changes nothing."""
        was_there = self._seen is not None
        self._seen = file_mark(self.started.path) or self._seen
        try:
            found = configuration.read(replace(self.started, must_exist=self.started.must_exist or was_there))
        except ConfigError as error:
            self.last_error = error.message
            self.readings.add(value="refused")
            log.event(logger, f"the configuration stays as it was: {error.message}", level=logging.ERROR)
            return None
        self.last_error, self._seen = None, found.mark
        return self._take_over(found)

    def _take_over(self, found: Configuration) -> Configuration | None:
        before = self.current
        waiting = changes.names(changes.differences(before.plain(), found.plain()), Change.RESTART)
        if waiting and waiting != self.waiting:
            log.event(logger, f"these settings count after a restart: {waiting}", level=logging.WARNING)
        self.waiting = waiting
        self.current = configuration.in_force(before, found, self.started)
        live = changes.names(changes.differences(before.plain(), self.current.plain()), Change.LIVE)
        self.readings.add(value="changed" if live else "unchanged")
        if not live:
            return None
        log.event(logger, f"read again from llorch.toml: {live}")
        return before
