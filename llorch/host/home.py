"""Where this host's models, catalog and worker records are: the one answer that llorch-pool and the worker share.

`LLORCH_HOME=checkout` uses the folder names of a source checkout (`.test-models/`, `.runtime/`), so that people who
work in one find the files where they expect them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llorch.base import config
from llorch.base.errors import HostError, InvalidRequest, NotFound
from llorch.wire.catalog import EMBEDDED, Catalog, ModelEntry, parse_catalog

CHECKOUT = "checkout"


@dataclass(frozen=True, slots=True)
class Home:
    """Absolute paths of one LLORCH_HOME."""

    root: Path
    catalog_path: Path
    models_dir: Path
    workers_dir: Path

    @property
    def home_id_path(self) -> Path:
        """The random id that processes of this home carry in LLORCH_HOME_ID."""
        return self.workers_dir.parent / "home-id"

    @property
    def workers_lock_path(self) -> Path:
        """Held while a port and a record are chosen."""
        return self.workers_dir / ".lock"

    @property
    def catalog_lock_path(self) -> Path:
        """Held while the catalog is changed."""
        return self.catalog_path.with_name(".catalog.lock")


def find_home(env: Mapping[str, str]) -> Home:
    """The home that the environment names; NotFound when it should be a checkout and none is configured."""
    if env.get("LLORCH_HOME") == CHECKOUT:
        checkout = find_checkout(env)
        models = checkout / ".test-models"
        runtime = checkout / ".runtime"
        return Home(checkout, models / "catalog.json", models, runtime / "workers")
    root = config.data_dir(env)
    return Home(root, root / "catalog.json", root / "models", root / "workers")


def find_checkout(env: Mapping[str, str]) -> Path:
    """The configured source checkout: LLORCH_REPO, else `repo` in the [pool] section of llorch.toml."""
    named = env.get("LLORCH_REPO") or config.load_file(config.config_path(env)).get("pool", {}).get("repo", "")
    if not named or not isinstance(named, str):
        raise NotFound("no checkout is configured: set LLORCH_REPO, or repo= in the pool's section of llorch.toml")
    path = Path(named).expanduser().absolute()
    if not path.is_dir():
        raise NotFound(f"the configured checkout {path} does not exist")
    return path


def load_catalog(home: Home) -> Catalog:
    """The catalog as stored; a missing file is empty. Raises HostError when it cannot be read or is not a catalog."""
    try:
        return parse_catalog(home.catalog_path.read_bytes())
    except FileNotFoundError:
        return Catalog()
    except OSError as error:
        raise HostError(f"cannot read the catalog {home.catalog_path}: {error.strerror}") from error
    except InvalidRequest as error:
        raise HostError(f"the catalog {home.catalog_path} is damaged: {error.message}") from error


def model_dir(home: Home, entry: ModelEntry) -> Path:
    """The directory that holds (or will hold) the files of `entry`; HostError when it would lie outside the model root.

    Symbolic links are resolved before the check, so that a link cannot lead out of the root either.
    """
    if entry.embedded:
        from llorch.host import runtime

        return Path(runtime.assets_dir()) / entry.path.removeprefix(EMBEDDED)
    models = home.models_dir.resolve()
    path = (home.catalog_path.parent / entry.path).resolve() if entry.path else models / entry.id
    if path == models or not path.is_relative_to(models):
        raise HostError(f"the files of model '{entry.id}' are outside the model root; download or import it again")
    return path
