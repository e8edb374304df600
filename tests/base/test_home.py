"""Where a host keeps its models and workers, and that nothing leads out of the model root."""

from __future__ import annotations

from pathlib import Path

import pytest

from llorch.base.errors import HostError, NotFound
from llorch.base.home import find_home


def test_llorch_home_names_the_root(tmp_path: Path) -> None:
    """Catalog, models and workers lie below LLORCH_HOME."""
    home = find_home({"LLORCH_HOME": str(tmp_path)})
    assert home.catalog_path == tmp_path / "catalog.json"
    assert home.models_dir == tmp_path / "models"
    assert home.workers_dir == tmp_path / "workers"


def test_a_checkout_uses_its_own_folder_names(tmp_path: Path) -> None:
    """LLORCH_HOME=checkout means `.test-models` and `.runtime` of the configured checkout."""
    home = find_home({"LLORCH_HOME": "checkout", "LLORCH_REPO": str(tmp_path), "HOME": str(tmp_path)})
    assert home.catalog_path == tmp_path / ".test-models" / "catalog.json"
    assert home.workers_dir == tmp_path / ".runtime" / "workers"


def test_a_checkout_must_be_configured(tmp_path: Path) -> None:
    """Without LLORCH_REPO or a config entry the answer is a hint, not a guess."""
    with pytest.raises(NotFound, match="LLORCH_REPO"):
        find_home({"LLORCH_HOME": "checkout", "HOME": str(tmp_path)})


def test_a_link_cannot_lead_out_of_the_model_root(tmp_path: Path) -> None:
    """A model directory that is a symbolic link to somewhere else is refused."""
    home = find_home({"LLORCH_HOME": str(tmp_path / "home")})
    home.models_dir.mkdir(parents=True)
    (home.models_dir / "evil").symlink_to(tmp_path)
    with pytest.raises(HostError, match="outside the model root"):
        home.model_dir("evil", "models/evil")
    assert home.model_dir("good", "") == home.models_dir / "good"


@pytest.mark.parametrize("path", ["models", "catalog.json", "../x", "models/../workers"])
def test_only_places_below_the_model_root_are_models(tmp_path: Path, path: str) -> None:
    """The root itself and its neighbours are no model directories."""
    with pytest.raises(HostError):
        find_home({"LLORCH_HOME": str(tmp_path)}).model_dir("m", path)
