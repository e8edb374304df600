"""Where this user's files are, and `llorch.toml` read: unknown sections and keys are refused with a suggestion."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llorch.base import settings_table
from llorch.base.errors import ConfigError
from llorch.base.problems import Problems
from llorch.base.settings import check_keys
from llorch.base.spelling import did_you_mean as did_you_mean

FILE_SIZE_MAX = 1 << 20
# The key of a problem that concerns the text as a whole.
WHOLE_FILE = ("",)


def home_dir(env: Mapping[str, str]) -> Path:
    """The user's home, also when HOME is unset or empty (`~` would then be the root directory). Raises ConfigError."""
    if env.get("HOME"):
        return Path(env["HOME"])
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        raise ConfigError("HOME is not set and this user has no home directory") from None


def _xdg(env: Mapping[str, str], variable: str, fallback: str) -> Path:
    value = env.get(variable, "")
    return (Path(value) if value.startswith("/") else home_dir(env) / fallback) / "llorch"


def config_path(env: Mapping[str, str], flag: str | None = None) -> Path:
    """Where `llorch.toml` is: --config, LLORCH_CONFIG, else the XDG config directory."""
    named = flag or env.get("LLORCH_CONFIG")
    return Path(named) if named else _xdg(env, "XDG_CONFIG_HOME", ".config") / "llorch.toml"


def state_dir(env: Mapping[str, str], flag: str | None = None) -> Path:
    """Where a daemon keeps its state: --state, LLORCH_STATE, else the XDG state directory."""
    named = flag or env.get("LLORCH_STATE")
    return Path(named) if named else _xdg(env, "XDG_STATE_HOME", ".local/state")


def data_dir(env: Mapping[str, str]) -> Path:
    """LLORCH_HOME (absolute), else the XDG data directory: catalog, models and workers of this host."""
    named = env.get("LLORCH_HOME")
    return Path(named).absolute() if named else _xdg(env, "XDG_DATA_HOME", ".local/share")


def cache_dir(env: Mapping[str, str]) -> Path:
    """LLORCH_CACHE, else the XDG cache directory: unpacked runtimes."""
    named = env.get("LLORCH_CACHE")
    return Path(named) if named else _xdg(env, "XDG_CACHE_HOME", ".cache")


def load_file(path: Path, *, must_exist: bool = False) -> dict[str, Any]:
    """Read and check `llorch.toml`; a missing file is empty unless it was named.

    Raises ConfigError for bad TOML, unknown sections or unknown top-level keys.
    """
    text = read_text(path, must_exist=must_exist)
    problems = Problems()
    data = parse_text(text, problems) if text else {}
    problems.must_be_none(path)
    return data


def read_text(path: Path, *, must_exist: bool) -> str:
    """The file's text, "" when there is none. Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            raw = file.read(FILE_SIZE_MAX + 1)
            if len(raw) > FILE_SIZE_MAX:
                raise ConfigError(f"config file {path}: larger than {FILE_SIZE_MAX >> 20} MiB")
            return raw.decode("utf-8")
    except FileNotFoundError:
        if must_exist:
            raise ConfigError(f"config file {path} does not exist") from None
        return ""
    except OSError as error:
        raise ConfigError(f"config file {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"config file {path}: {error}") from error


def parse_text(text: str, problems: Problems) -> dict[str, Any]:
    """What the text says; what is wrong about its shape is added to `problems`, and left out."""
    import tomllib  # 5 ms that most commands of the pool CLI need not spend

    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problems.add(str(error), *WHOLE_FILE)
        return {}
    return {key: value for key, value in data.items() if _good_shape(key, value, problems)}


def _good_shape(key: str, value: Any, problems: Problems) -> bool:
    """Is it a key or section that there is? Sections of unknown keys are taken, and the keys told."""
    known = (*settings_table.keys(settings_table.CLIENT), *settings_table.SECTIONS, *settings_table.FAMILIES)
    if key not in known:
        problems.add(f"unknown key '{key}'{did_you_mean(key, known)}", key)
        return False
    if key in settings_table.keys(settings_table.CLIENT):
        return True
    if not isinstance(value, dict):
        problems.add(f"'{key}' must be a section: [{key}]", key)
        return False
    if key == "pool":
        check_keys(key, value, settings_table.keys(settings_table.POOL), problems)
    if key in settings_table.FAMILIES:
        _check_family(key, value, problems)
    return True


def _check_family(family: str, tables: dict[str, Any], problems: Problems) -> None:
    known = settings_table.keys(settings_table.FAMILIES[family])
    for name, table in list(tables.items()):
        if isinstance(table, dict):
            check_keys(f"{family}.{name}", table, known, problems)
        else:
            problems.add(f"'{family}.{name}' must be a section: [{family}.{name}]", family, name)
            del tables[name]
