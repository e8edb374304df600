"""The models that this host's catalog knows: a task for one of them may wait for a worker instead of being refused."""

from __future__ import annotations

from collections.abc import Mapping

from llorch.base import log
from llorch.base.errors import LlorchError
from llorch.base.home import find_home
from llorch.base.ids import ModelId
from llorch.wire.catalog import Catalog, parse_catalog

logger = log.get(__name__)


def read(env: Mapping[str, str]) -> Catalog:
    """This host's catalog; the built-in models alone when there is none, or none that can be read."""
    try:
        return parse_catalog(find_home(env).catalog_path.read_bytes())
    except FileNotFoundError:
        return Catalog()
    except (OSError, LlorchError) as error:
        log.event(logger, f"the catalog of this host cannot be read, built-in models only: {error}", level=30)
        return Catalog()


def aliases(catalog: Catalog) -> dict[str, ModelId]:
    """Other names of models."""
    return {alias: entry.id for entry in catalog.entries() for alias in entry.aliases}
