"""Which model `--model` means, which settings win, and which token guards what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llorch.base.errors import ConfigError, HostError, ModelNotFound, Unauthorized, UsageError
from llorch.workerd import access, launch
from llorch.workerd.access import Tokens


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A home of its own."""
    return {"HOME": str(tmp_path), "LLORCH_HOME": str(tmp_path / "home"), "LLORCH_STATE": str(tmp_path / "state")}


def model_at(path: Path) -> Path:
    """A directory that looks like a model."""
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    return path


def catalog(env: dict[str, str], **entry: object) -> None:
    """A catalog with one entry."""
    home = Path(env["LLORCH_HOME"])
    home.mkdir(exist_ok=True)
    (home / "catalog.json").write_text(json.dumps({"version": 1, "models": [{"path": "", **entry}]}))


def test_a_catalog_id_is_found(env: dict[str, str], tmp_path: Path) -> None:
    """An id or alias gives the catalog's directory, architecture hint and template; no catalog gives the built-ins."""
    directory = model_at(tmp_path / "home/models/mine")
    catalog(env, id="mine", path="models/mine", architecture="qwen", template="chatml", aliases=["me"])
    for name in ("mine", "me"):
        found = launch.find_model(name, env, Path)
        assert found == launch.Model("mine", directory, "qwen", "chatml")
    assets = model_at(tmp_path / "assets/demo").parent
    for home in (env, {**env, "LLORCH_HOME": str(tmp_path / "empty")}):
        assert launch.find_model("demo", home, lambda: assets).directory == assets / "demo"


def test_a_directory_is_named_after_itself(env: dict[str, str], tmp_path: Path) -> None:
    """The seeds' own command line names a directory; its last part is the model's id, never its path."""
    directory = model_at(tmp_path / ".test-models" / "Qwen 0.5B")
    found = launch.find_model(str(directory), env, Path)
    assert found.id == "qwen-0.5b" and found.directory == directory


def test_models_that_are_not_there(env: dict[str, str], tmp_path: Path) -> None:
    """An unknown id, an empty directory, a model that was not downloaded, a damaged catalog: each says so."""
    with pytest.raises(ModelNotFound, match="did you mean 'mistral'"):
        launch.find_model("mistrall", env, Path)
    with pytest.raises(ModelNotFound, match="no model there"):
        launch.find_model(f"{tmp_path}/", env, Path)
    with pytest.raises(HostError, match="not downloaded: llorch-pool models download tinyllama"):
        launch.find_model("tinyllama", env, Path)
    catalog(env, id="away", path="../../etc")
    with pytest.raises(HostError, match="cannot be read"):
        launch.find_model("away", env, Path)


def test_flags_beat_environment_beats_file(env: dict[str, str], tmp_path: Path) -> None:
    """One order of precedence for every setting; the orchestrator comes from the environment or the file."""
    path = tmp_path / "llorch.toml"
    path.write_text('orchestrator = "http://file:1"\n[worker]\nslots = 3\nthreads = 2\ndtype = "fp32"\n')
    env |= {"LLORCH_CONFIG": str(path), "LLORCH_WORKER_THREADS": "5"}
    read = launch.read(["--model", "m", "--dtype", "bf16"], env, prog="w")
    assert (read.slots, read.threads, read.dtype, read.orchestrator) == (3, 5, "bf16", "http://file:1")
    assert launch.read(["--model", "m"], {**env, "LLORCH_ORCHESTRATOR": "e:2"}, prog="w").orchestrator == "e:2"
    assert launch.read(["--model", "m"], env, prog="w").worker_id.startswith("worker-cpu-")
    with pytest.raises(UsageError):
        launch.read(["--model", "m", "--port", "70000"], env, prog="w")


def test_backends_are_never_replaced() -> None:
    """What this build cannot compute on is refused by name."""
    launch.check_backend("cpu", ("cpu",))
    with pytest.raises(HostError, match="cuda is not available"):
        launch.check_backend("cuda", ("cpu",))


def test_which_token_guards_what(env: dict[str, str], tmp_path: Path) -> None:
    """A named file guards always; the state directory's token guards what others can reach; neither: refused there."""

    def find(bind: str = "127.0.0.1", file: Path | None = None, insecure: bool = False) -> Tokens:
        return access.find_tokens(env, bind=bind, token_file=file, insecure_lan=insecure)

    assert find() == find("localhost") == find("::1") == Tokens(None, None)
    with pytest.raises(ConfigError, match="--insecure-lan"):
        find("0.0.0.0")
    assert find("0.0.0.0", insecure=True) == Tokens(None, None)
    (tmp_path / "state").mkdir()
    (tmp_path / "state/worker-token").write_text("lying\n")
    assert find() == Tokens(None, "lying")
    assert find("0.0.0.0") == Tokens("lying", "lying")
    assert find("0.0.0.0", insecure=True) == Tokens(None, "lying")
    named = tmp_path / "named"
    named.write_text("named")
    assert find(file=named) == find("0.0.0.0", named) == Tokens("named", "named")
    env["LLORCH_WORKER_TOKEN_FILE"] = str(named)
    assert find() == Tokens("named", "named")


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic right", "right", "Bearer r\xe4"]
)
def test_only_the_right_bearer_passes(header: str | None) -> None:
    """Every other header is Unauthorized, and never another error."""
    with pytest.raises(Unauthorized):
        access.check_bearer("right", header)
    access.check_bearer("right", "bearer right")
