"""What a setting is, and how its value is found: flag > environment > file > default; every value knows its origin."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from llorch.base.errors import ConfigError
from llorch.base.problems import Problems
from llorch.base.spelling import did_you_mean

if TYPE_CHECKING:
    import argparse


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
    NAMES = "list of names"
    TABLE = "section"


class Change(Enum):
    """When a changed value counts."""

    LIVE = "live"  # within a second, and on SIGHUP
    RESTART = "restart"  # when its daemon starts anew
    NEXT = "next"  # for the next command or worker that starts


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: key in its section of the file, flag (with dashes) and environment variable, bounds, default.

    `env` None: LLORCH_<KEY>; "": none. A `secret` is never shown. `flag` "": it has none.
    """

    key: str
    kind: Kind
    default: Any
    help: str
    env: str | None = None
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    change: Change = Change.LIVE
    flag: str | None = None
    metavar: str = ""
    secret: bool = False

    @property
    def variable(self) -> str:
        """The environment variable, "" without one."""
        return f"LLORCH_{self.key.upper()}" if self.env is None else self.env

    @property
    def flag_word(self) -> str:
        """`--like-this`, "" without one."""
        return f"--{self.key.replace('_', '-')}" if self.flag is None else self.flag


@dataclass(frozen=True, slots=True)
class Resolved:
    """A setting's value, where it came from, and the words for that place."""

    value: Any
    origin: Origin
    where: str = field(default="", compare=False)


def add_flags(parser: argparse.ArgumentParser, settings: Sequence[Setting]) -> None:
    """One flag for each that has one."""
    for setting in settings:
        word, shown = setting.flag_word, "" if setting.default is None else f" (default {setting.default})"
        if not word:
            continue
        if setting.kind is Kind.SWITCH:
            parser.add_argument(word, dest=setting.key, action="store_true", default=None, help=setting.help)
        else:
            metavar = setting.metavar or "|".join(setting.choices) or setting.kind.value.upper()
            parser.add_argument(word, dest=setting.key, metavar=metavar, help=setting.help + shown)


def resolve(
    settings: Sequence[Setting],
    *,
    section: str,
    flags: Mapping[str, Any],
    env: Mapping[str, str],
    file: Mapping[str, Any],
    problems: Problems | None = None,
) -> dict[str, Resolved]:
    """One value per setting: flag (not None) > environment > `[section]` of the file > default.

    Values of the wrong type and keys of the section that no setting has are added to `problems`; without it they
    raise ConfigError. A wrong value leaves the default.
    """
    gathered = Problems() if problems is None else problems
    table = file.get(section, {})
    check_keys(section, table, [setting.key for setting in settings], gathered)
    found = {setting.key: Resolved(setting.default, Origin.DEFAULT) for setting in settings}
    for setting in settings:
        with gathered.at(*_place(setting, section, flags, env, table)):
            found[setting.key] = _resolve_one(setting, section, flags, env, table)
        if found[setting.key].origin is not Origin.FILE and setting.key in table:
            with gathered.at(section, setting.key):  # what something else holds over must be good, too
                convert(setting, table[setting.key], f"[{section}] {setting.key}")
    if problems is None:
        gathered.must_be_none()
    return found


def check_keys(section: str, table: Mapping[str, Any], known: Sequence[str], problems: Problems) -> None:
    """A key that nobody knows is a problem, with the one that was probably meant."""
    for key in table:
        if key not in known:
            problems.add(f"[{section}]: unknown key '{key}'{did_you_mean(key, known)}", *section.split(".", 1), key)


def _place(
    setting: Setting, section: str, flags: Mapping[str, Any], env: Mapping[str, str], table: Mapping[str, Any]
) -> tuple[str, ...]:
    """Where in the file its value stands; () when it comes from elsewhere."""
    is_elsewhere = flags.get(setting.key) is not None or env.get(setting.variable, "") != ""
    return () if is_elsewhere or setting.key not in table else (section, setting.key)


def _resolve_one(
    setting: Setting, section: str, flags: Mapping[str, Any], env: Mapping[str, str], table: Mapping[str, Any]
) -> Resolved:
    variable = setting.variable
    if (flag := flags.get(setting.key)) is not None:
        return Resolved(convert(setting, flag, setting.flag_word), Origin.FLAG, setting.flag_word)
    if env.get(variable, "") != "":
        return Resolved(convert(setting, env[variable], variable), Origin.ENV, variable)
    if setting.key in table:
        where = f"[{section}] {setting.key}"
        return Resolved(convert(setting, table[setting.key], where), Origin.FILE, where)
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
    _check_bounds(setting, value, where)
    return value


def convert_strictly(setting: Setting, raw: object, where: str) -> Any:
    """As `convert`, for values that no flag or variable can hold: text that looks like a number is none."""
    if isinstance(raw, str) and setting.kind is not Kind.TEXT:
        raise ConfigError(f"{where}: expected {setting.kind.value}, got {raw!r}")
    if setting.kind is Kind.SWITCH and not isinstance(raw, bool):
        raise ConfigError(f"{where}: expected true or false, got {raw!r}")
    return convert(setting, raw, where)


def _check_bounds(setting: Setting, value: Any, where: str) -> None:
    low, high = setting.low, setting.high
    if low is not None and high is not None and not low <= value <= high:
        raise ConfigError(f"{where}: must be between {_shown(low)} and {_shown(high)}, got {value}")


def _shown(number: float) -> str:
    return f"{number:g}" if number >= 1e12 else f"{number:.12g}"


def _refuse() -> Any:
    raise ValueError
