"""`llorch config show | check`: every setting in effect and where it came from; all that is wrong with a file."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llorch.base import config, settings_table
from llorch.base.commands import CommandTable, Leaf
from llorch.base.errors import NotFound
from llorch.base.problems import Problems
from llorch.base.settings import Origin, Resolved, Setting, resolve
from llorch.base.spelling import did_you_mean
from llorch.base.toml_lines import Key, line_of, lines_of
from llorch.orchestratord import configuration, dry_run

COMMANDS = CommandTable(
    about="the settings of everything here: llorch.toml, environment, defaults",
    leaves={
        ("show",): Leaf("llorch.orchestratord.config_cli:show", "print the settings in effect"),
        ("check",): Leaf("llorch.orchestratord.config_cli:check", "tell everything that is wrong with a file"),
    },
    groups={},
)
BAD_FILE = 2
HIDDEN = "(set, not shown)"


def main(argv: list[str], *, prog: str) -> int:
    """Run one command; the exit code. Raises LlorchError."""
    parsed = COMMANDS.parse(argv, prog)
    return 0 if parsed is None else parsed.run(parsed.arguments)


def parser(prog: str) -> argparse.ArgumentParser:
    """All of it, for the manual page."""
    return COMMANDS.parser(prog)


@dataclass(frozen=True, slots=True)
class _Row:
    """One setting as it is shown; `where` is `FILE:LINE`, a variable, or "" for a default."""

    section: str
    setting: Setting
    value: Any
    origin: Origin
    where: str


def show_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch config show`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="a section, or a key as SECTION.KEY (default: all)")
    parser.add_argument("--config", metavar="FILE", help="llorch.toml to read")
    parser.add_argument("--state", metavar="DIR", help="orchestratord's state directory")
    parser.add_argument("--origin", action="store_true", help="say where each value came from")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def show(arguments: argparse.Namespace) -> int:
    """The settings as a file that would set them all. Raises ConfigError, NotFound."""
    started = configuration.given(arguments, os.environ)
    text = config.read_text(started.path, must_exist=started.must_exist)
    problems = Problems()
    found = configuration.understood(text, started, problems)
    rows = list(_rows(found.file, lines_of(text) if not problems.found else {}, arguments, problems))
    problems.must_be_none(started.path)
    rows = _chosen(rows, arguments.name)
    if arguments.json:
        sys.stdout.write(json.dumps([_as_json(row) for row in rows], default=str) + "\n")
    else:
        _print(rows, with_origin=arguments.origin)
    return 0


def check_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch config check`."""
    parser.add_argument("file", nargs="?", metavar="FILE", help="the file to look at (default: the one that is used)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def check(arguments: argparse.Namespace) -> int:
    """All problems at once, each with its line; 2 when there are any. Flags and environment play no part."""
    named = argparse.Namespace(config=arguments.file, state=None)
    path = configuration.given(named, os.environ).path
    text = config.read_text(path, must_exist=True)
    problems = Problems()
    bare = configuration.Given({}, {}, path, path.parent, True)
    found = configuration.understood(text, bare, problems)
    _sections(found.file, {}, problems)
    is_toml = not any(problem.key == config.WHOLE_FILE for problem in problems.found)
    lines = lines_of(text) if is_toml else {}
    if arguments.json:
        shown = [dry_run.as_json(problem, lines) for problem in problems.found]
        sys.stdout.write(json.dumps({"file": str(path), "ok": not shown, "problems": shown}) + "\n")
    else:
        for problem in sorted(problems.found, key=lambda problem: line_of(lines, problem.key) or 0):
            sys.stderr.write(dry_run.shown(problem, path, lines) + "\n")
        if not problems.found:
            sys.stdout.write(f"{path}: good\n")
    return BAD_FILE if problems.found else 0


def _sections(file: Mapping[str, Any], env: Mapping[str, str], problems: Problems) -> dict[str, dict[str, Resolved]]:
    """What every section with one table comes to; the keys above all sections are under ""."""
    top = {key: value for key, value in file.items() if key in settings_table.keys(settings_table.CLIENT)}
    for key, value in top.items():
        if not isinstance(value, str):
            problems.add(f"{key}: must be a URL in quotes", key)
    good = {key: value for key, value in top.items() if isinstance(value, str)}
    ours = {"": resolve(settings_table.CLIENT, section="", flags={}, env=env, file={"": good})}
    for section, rows in settings_table.SECTIONS.items():
        ours[section] = resolve(rows, section=section, flags={}, env=env, file=file, problems=problems)
    return ours


def _rows(
    file: Mapping[str, Any], lines: Mapping[Key, int], arguments: argparse.Namespace, problems: Problems
) -> Iterator[_Row]:
    env = os.environ
    path = configuration.given(arguments, env).path
    tables = {"": settings_table.CLIENT, **settings_table.SECTIONS}
    for section, values in _sections(file, env, problems).items():
        for setting in tables[section]:
            found = values[setting.key]
            place: Key = (section, setting.key) if section else (setting.key,)
            yield _Row(section, setting, found.value, found.origin, _where(found, path, line_of(lines, place)))
        if not section:
            yield from _environment(arguments, env)
    for family, rows in settings_table.FAMILIES.items():
        for name, table in file.get(family, {}).items():
            for setting in rows:
                is_set = setting.key in table
                value = table.get(setting.key, setting.default)
                origin = Origin.FILE if is_set else Origin.DEFAULT
                place = (family, name, setting.key)
                where = _where(Resolved(value, origin), path, line_of(lines, place))
                yield _Row(f"{family}.{name}", setting, value, origin, where)


def _environment(arguments: argparse.Namespace, env: Mapping[str, str]) -> Iterator[_Row]:
    """What only flags and variables say: where things are, and secrets, of which only that they are there."""
    places = {
        "config": config.config_path(env, arguments.config),
        "state": config.state_dir(env, arguments.state),
        "home": config.data_dir(env),
        "cache": config.cache_dir(env),
    }
    for setting in settings_table.ENVIRONMENT:
        flag = getattr(arguments, setting.key, None)
        is_set = bool(env.get(setting.variable))
        value: Any = places.get(setting.key, env.get(setting.variable) or None)
        value = HIDDEN if setting.secret and is_set else None if value is None else str(value)
        origin = Origin.FLAG if flag else Origin.ENV if is_set else Origin.DEFAULT
        where = setting.flag_word if flag else setting.variable if is_set else ""
        yield _Row("environment", setting, value, origin, where)


def _where(found: Resolved, path: Path, line: int | None) -> str:
    if found.origin is not Origin.FILE:
        return found.where
    return str(path) if line is None else f"{path}:{line}"


def _chosen(rows: list[_Row], name: str | None) -> list[_Row]:
    """Those of one section, or one. Raises NotFound."""
    if name is None:
        return rows
    chosen = [row for row in rows if name in (row.section, f"{row.section}.{row.setting.key}".lstrip("."))]
    if not chosen:
        known = [*dict.fromkeys(row.section for row in rows if row.section)]
        known += [f"{row.section}.{row.setting.key}".lstrip(".") for row in rows]
        raise NotFound(f"there is no setting '{name}'{did_you_mean(name, known)}")
    return chosen


def _as_json(row: _Row) -> dict[str, object]:
    return {
        "section": row.section,
        "key": row.setting.key,
        "value": _without_login(row.value) if isinstance(row.value, str) and "://" in row.value else row.value,
        "origin": row.origin.value,
        "where": row.where or None,
        "changes": row.setting.change.value,
    }


def _print(rows: list[_Row], *, with_origin: bool) -> None:
    section = ""
    for row in rows:
        if row.section != section:
            section = row.section
            head = "# by flags and environment only" if section == "environment" else f"[{_quoted(section)}]"
            sys.stdout.write(f"\n{head}\n")
        sys.stdout.write(_line(row, with_origin=with_origin) + "\n")


def _line(row: _Row, *, with_origin: bool) -> str:
    key = row.setting.key
    if row.value is None:
        text = f"# {key} is not set"
    elif row.section == "environment":
        text = f"# {key}: {row.value}"
    else:
        text = f"{key} = {_toml(row.value)}"
    return f"{text:<40} # {row.where or row.origin.value}" if with_origin else text


def _toml(value: object) -> str:
    """JSON's strings, numbers and lists are TOML's; sections are written as inline tables."""
    if isinstance(value, str) and "://" in value:
        value = _without_login(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False, default=str)


def _without_login(url: str) -> str:
    """A password in a URL is refused where the URL is used; it is not shown either."""
    scheme, _, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}://{place.rpartition('@')[2]}{slash}{path}"


def _quoted(section: str) -> str:
    family, dot, name = section.partition(".")
    bare = name.replace("-", "").replace("_", "").isalnum() and name.isascii()
    return section if not dot or bare else f"{family}.{json.dumps(name)}"
