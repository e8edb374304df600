"""Settings from flags, environment, `llorch.toml` and defaults, in this order; every value knows where it came from.

A role declares its settings as `Setting` rows; unknown keys in the file are refused with a suggestion.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from llorch.base.errors import ConfigError

FILE_SIZE_MAX = 1 << 20


class Origin(Enum):
    FLAG = "flag"
    ENV = "environment"
    FILE = "file"
    DEFAULT = "default"


class Kind(Enum):
    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    SWITCH = "switch"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: key in the file section and flag name (dashes), type, default, help, environment variable."""

    key: str
    kind: Kind
    default: Any
    help: str
    env: str | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resolved:
    """A setting's value and where it came from."""

    value: Any
    origin: Origin


TOP_LEVEL_KEYS = ("orchestrator",)
SECTIONS = ("orchestratord", "worker", "pool", "pools", "tenants", "models")
POOL_KEYS = ("repo",)
TENANT_KEYS = ("weight", "running_max", "queued_max", "tokens_per_day", "requests_per_s", "models")
MODEL_KEYS = ("replicas_min", "replicas_max", "ttl_s", "pinned", "pools")
PROFILE_KEYS = ("host", "user", "port", "path", "repo", "labels", "mac", "limits")


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


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """` (did you mean 'x'?)` or nothing."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def load_file(path: Path, *, must_exist: bool = False) -> dict[str, Any]:
    """Read and check `llorch.toml`; a missing file is empty unless it was named.

    Raises ConfigError for bad TOML, unknown sections or unknown top-level keys.
    """
    import tomllib  # 5 ms that most commands of the pool CLI need not spend

    try:
        with open(path, "rb") as file:
            data = tomllib.loads(file.read(FILE_SIZE_MAX).decode("utf-8"))
    except FileNotFoundError:
        if must_exist:
            raise ConfigError(f"config file {path} does not exist") from None
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"config file {path}: {error}") from error
    _check_sections(data, path)
    return data


def _check_sections(data: dict[str, Any], path: Path) -> None:
    known = (*TOP_LEVEL_KEYS, *SECTIONS)
    for key, value in data.items():
        if key not in known:
            raise ConfigError(f"config file {path}: unknown key '{key}'{did_you_mean(key, known)}")
        if key in SECTIONS and not isinstance(value, dict):
            raise ConfigError(f"config file {path}: '{key}' must be a section: [{key}]")
    _check_keys(path, "pool", data.get("pool", {}), POOL_KEYS)
    for family, keys in (("pools", PROFILE_KEYS), ("tenants", TENANT_KEYS), ("models", MODEL_KEYS)):
        for name, table in data.get(family, {}).items():
            if not isinstance(table, dict):
                raise ConfigError(f"config file {path}: '{family}.{name}' must be a section: [{family}.{name}]")
            _check_keys(path, f"{family}.{name}", table, keys)


def _check_keys(path: Path, section: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in table:
        if key not in known:
            raise ConfigError(f"config file {path}: [{section}]: unknown key '{key}'{did_you_mean(key, known)}")


def resolve(
    settings: Sequence[Setting],
    *,
    section: str,
    flags: Mapping[str, Any],
    env: Mapping[str, str],
    file: Mapping[str, Any],
) -> dict[str, Resolved]:
    """One value per setting: flag (not None) > environment > `[section]` of the file > default.

    Raises ConfigError for a value of the wrong type and for keys of the section that no setting has.
    """
    table = file.get(section, {})
    known = [setting.key for setting in settings]
    for key in table:
        if key not in known:
            raise ConfigError(f"config file: [{section}]: unknown key '{key}'{did_you_mean(key, known)}")
    return {setting.key: _resolve_one(setting, section, flags, env, table) for setting in settings}


def _resolve_one(
    setting: Setting, section: str, flags: Mapping[str, Any], env: Mapping[str, str], table: Mapping[str, Any]
) -> Resolved:
    variable = setting.env or f"LLORCH_{setting.key.upper()}"
    if (flag := flags.get(setting.key)) is not None:
        return Resolved(convert(setting, flag, f"--{setting.key.replace('_', '-')}"), Origin.FLAG)
    if env.get(variable, "") != "":
        return Resolved(convert(setting, env[variable], variable), Origin.ENV)
    if setting.key in table:
        return Resolved(convert(setting, table[setting.key], f"[{section}] {setting.key}"), Origin.FILE)
    return Resolved(setting.default, Origin.DEFAULT)


_SWITCH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def convert(setting: Setting, raw: object, where: str) -> Any:
    """`raw` as the setting's type; ConfigError names `where` it came from."""
    value: object = raw
    try:
        if setting.kind is Kind.SWITCH:
            value = raw if isinstance(raw, bool) else _SWITCH[str(raw).lower()]
        elif isinstance(raw, bool):
            raise ValueError
        elif setting.kind is Kind.INTEGER:
            value = int(raw) if isinstance(raw, (str, int)) else _refuse()
        elif setting.kind is Kind.NUMBER:
            value = float(raw) if isinstance(raw, (str, int, float)) else _refuse()
        else:
            value = os.fspath(raw) if isinstance(raw, (str, os.PathLike)) else _refuse()
    except (ValueError, KeyError):
        raise ConfigError(f"{where}: expected {setting.kind.value}, got {raw!r}") from None
    if setting.choices and value not in setting.choices:
        hint = did_you_mean(str(value), setting.choices)
        raise ConfigError(f"{where}: {value!r} is not one of {', '.join(setting.choices)}{hint}")
    return value


def _refuse() -> Any:
    raise ValueError
