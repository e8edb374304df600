"""The models that this host's catalog knows: a task for one of them may wait for a worker instead of being refused."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from llorch.base import log
from llorch.base.errors import LlorchError
from llorch.base.file_mark import file_mark
from llorch.base.home import find_home
from llorch.core.events import CatalogRead
from llorch.wire.catalog import Catalog, parse_catalog

logger = log.get(__name__)


class CatalogWatch:
    """Reads the catalog when its file has changed; writers replace the file, so it is always whole."""

    def __init__(self, env: Mapping[str, str]) -> None:
        """A home that cannot be found has the built-in models alone."""
        self._path: Path | None = None
        self._seen: object = "nothing"
        try:
            self._path = find_home(env).catalog_path
        except LlorchError as error:
            log.event(logger, f"this host has no catalog, built-in models only: {error}", level=logging.WARNING)

    def news(self) -> CatalogRead | None:
        """What the catalog says, the first time and after every change; None: nothing new."""
        mark = None if self._path is None else file_mark(self._path)
        if mark == self._seen:
            return None
        self._seen = mark
        entries = self._read().entries()
        aliases = tuple((alias, entry.id) for entry in entries for alias in entry.aliases)
        return CatalogRead(frozenset(entry.id for entry in entries), aliases)

    def _read(self) -> Catalog:
        """The catalog; the built-in models alone when there is none, or none that can be read."""
        try:
            return Catalog() if self._path is None else parse_catalog(self._path.read_bytes())
        except FileNotFoundError:
            return Catalog()
        except (OSError, LlorchError) as error:
            log.event(
                logger, f"the catalog of this host cannot be read, built-in models only: {error}", level=logging.WARNING
            )
            return Catalog()
