"""Settings: flag before environment before file before default; mistakes are refused with a hint."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from llorch.base import config, settings
from llorch.base.errors import ConfigError
from llorch.base.settings import Kind, Origin, Resolved, Setting

PORT = Setting("port", Kind.INTEGER, 8080, "port to listen on")
LAN = Setting("insecure_lan", Kind.SWITCH, False, "no keys")
MODE = Setting("mode", Kind.TEXT, "home", "mode", choices=("home", "lab"))


def resolve(flags: dict[str, object], env: dict[str, str], section: dict[str, object]) -> dict[str, Resolved]:
    return settings.resolve(
        (PORT, LAN, MODE), section="orchestratord", flags=flags, env=env, file={"orchestratord": section}
    )


def test_precedence() -> None:
    """flags > environment > file > default, and the origin is known."""
    both = {"LLORCH_PORT": "2"}
    assert resolve({"port": 1}, both, {"port": 3})["port"] == Resolved(1, Origin.FLAG)
    assert resolve({"port": None}, both, {"port": 3})["port"] == Resolved(2, Origin.ENV)
    assert resolve({}, {}, {"port": 3})["port"] == Resolved(3, Origin.FILE)
    assert resolve({}, {}, {})["port"] == Resolved(8080, Origin.DEFAULT)


def test_unknown_keys_are_refused_with_a_hint() -> None:
    """A misspelt key stops the start and names the key that was meant."""
    with pytest.raises(ConfigError, match="did you mean 'port'"):
        resolve({}, {}, {"prot": 1})


@pytest.mark.parametrize(("section", "env"), [({"port": "x"}, {}), ({"port": True}, {}), ({}, {"LLORCH_PORT": "x"})])
def test_wrong_types_name_their_place(section: dict[str, object], env: dict[str, str]) -> None:
    """A value of the wrong type is refused and the message says where it stands."""
    with pytest.raises(ConfigError, match=r"port|LLORCH_PORT"):
        resolve({}, env, section)


def test_choices() -> None:
    """A value outside the choices is refused with the nearest one."""
    with pytest.raises(ConfigError, match="did you mean 'home'"):
        resolve({}, {}, {"mode": "hom"})


@pytest.mark.parametrize(
    "text",
    [
        "x = ",
        "orchestartor = 'x'",
        "[pool.x]\n[poolz]",
        "pools = 3",
        "[pools.a]\nhots = 'x'",
        "orchestratord = 1",
        "[pool]\nrepoo = '/src'",
    ],
)
def test_bad_files(tmp_path: Path, text: str) -> None:
    """Bad TOML, unknown sections and unknown keys of a pool or profile are one clear error naming the file."""
    path = tmp_path / "llorch.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"llorch\.toml"):
        config.load_file(path)


def test_missing_file() -> None:
    """A missing default file is empty; a missing named file is an error."""
    assert config.load_file(Path("/nonexistent/llorch.toml")) == {}
    with pytest.raises(ConfigError, match="does not exist"):
        config.load_file(Path("/nonexistent/llorch.toml"), must_exist=True)


def test_places_follow_xdg() -> None:
    """The directories follow XDG, ignore relative XDG values, and bend to their own variables."""
    env = {"HOME": "/h", "XDG_STATE_HOME": "relative", "XDG_DATA_HOME": "/d"}
    assert config.state_dir(env) == Path("/h/.local/state/llorch")
    assert config.data_dir(env) == Path("/d/llorch")
    assert config.data_dir({**env, "LLORCH_HOME": "/x"}) == Path("/x")
    assert config.config_path({**env, "LLORCH_CONFIG": "/c.toml"}) == Path("/c.toml")


def test_an_empty_home_is_no_root_directory() -> None:
    """HOME unset or empty: the home of the user's account."""
    account = Path(pwd.getpwuid(os.getuid()).pw_dir)
    assert config.home_dir({}) == config.home_dir({"HOME": ""}) == account
    assert config.home_dir({"HOME": "/h"}) == Path("/h")
