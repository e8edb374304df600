"""Where this host's models, catalog and worker records are: the one answer that llorch-pool and the worker share.

`LLORCH_HOME=checkout` uses the folder names of a source checkout (`.test-models/`, `.runtime/`), so that people who
work in one find the files where they expect them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llorch.base import config
from llorch.base.errors import HostError, NotFound

CHECKOUT = "checkout"


@dataclass(frozen=True, slots=True)
class Home:
    """Absolute paths of one LLORCH_HOME."""

    root: Path
    catalog_path: Path
    models_dir: Path
    workers_dir: Path

    @property
    def catalog_lock_path(self) -> Path:
        """Held while the catalog is changed."""
        return self.catalog_path.with_name(".catalog.lock")

    @property
    def workers_lock_path(self) -> Path:
        """Held while a port is chosen and a worker's record is written."""
        return self.workers_dir / ".lock"

    @property
    def measured_path(self) -> Path:
        """What workers of this host were seen to take of its memory."""
        return self.catalog_path.with_name("measured.json")

    def model_lock_path(self, model_id: str) -> Path:
        """Held while a model's files are brought, mended or deleted."""
        return self.models_dir / f".{model_id}.lock"

    @property
    def home_id_path(self) -> Path:
        """The random id that every process started for this home carries in LLORCH_HOME_ID."""
        return self.workers_dir.parent / "home-id"

    def model_dir(self, model_id: str, path: str) -> Path:
        """The directory of a model whose catalog entry says `path` ("" when it has no files yet).

        Symbolic links are resolved before the check, so that neither text nor a link leads out of the model root.
        Raises HostError when it would lie outside. Embedded models are not found here but in the program's assets.
        """
        models = self.models_dir.resolve()
        found = (self.catalog_path.parent / path).resolve() if path else models / model_id
        if found == models or not found.is_relative_to(models):
            raise HostError(f"the files of model '{model_id}' are outside the model root; download or import it again")
        return found


def find_home(env: Mapping[str, str]) -> Home:
    """The home that the environment names; NotFound when it should be a checkout and none is configured."""
    if env.get("LLORCH_HOME") == CHECKOUT:
        checkout = find_checkout(env)
        models = checkout / ".test-models"
        return Home(checkout, models / "catalog.json", models, checkout / ".runtime" / "workers")
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
