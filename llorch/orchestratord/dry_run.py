"""`orchestratord --dry-run`: what a changed llorch.toml would change of the one that runs; changes nothing."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llorch.base import config
from llorch.base.problems import Problem, Problems
from llorch.base.settings import Change, Origin, resolve
from llorch.base.settings_table import ORCHESTRATORD
from llorch.base.toml_lines import Key, line_of, lines_of
from llorch.orchestratord import configuration, in_force
from llorch.orchestratord.changes import Difference, differences
from llorch.orchestratord.configuration import Configuration, Given
from llorch.orchestratord.settings import SECTION

WRONG = 2


@dataclass(frozen=True, slots=True)
class _Findings:
    """What came of the comparison; `masked` names keys that the file sets in vain, and what holds over it."""

    path: Path
    is_running: bool
    changed: list[Difference]
    masked: list[tuple[str, str]]
    problems: list[Problem]
    lines: Mapping[Key, int]


def run(flags: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Compare, and print; the exit code: 2 when the file could not be used. Raises LlorchError."""
    started = configuration.given(flags, env)
    holds = in_force.read(started.state_dir)
    if holds is not None:
        started = _as_it_was_started(started, holds, named=bool(flags.config))
    text = config.read_text(started.path, must_exist=started.must_exist)
    problems = Problems()
    found = configuration.understood(text, started, problems)
    lines = lines_of(text) if not any(problem.key == config.WHOLE_FILE for problem in problems.found) else {}
    before = _defaults() if holds is None else holds.values
    findings = _Findings(
        started.path,
        is_running=holds is not None,
        changed=[] if problems.found else differences(before, found.plain()),
        masked=[] if problems.found else _masked(found),
        problems=problems.found,
        lines=lines,
    )
    if flags.json:
        _print_json(findings)
    else:
        _print(findings)
    return WRONG if problems.found else 0


def _as_it_was_started(started: Given, holds: in_force.InForce, *, named: bool) -> Given:
    """Its flags, unless we have our own; its environment; its file, unless we named one."""
    flags = {**holds.flags, **{key: value for key, value in started.flags.items() if value is not None}}
    path = started.path if named else holds.config_path
    return replace(started, flags=flags, env=holds.env, path=path, must_exist=named)


def _defaults() -> dict[str, dict[str, Any]]:
    return {SECTION: {row.key: row.default for row in ORCHESTRATORD}}


def _masked(found: Configuration) -> list[tuple[str, str]]:
    """Keys that the file sets in vain, and what holds over it."""
    in_file = found.file.get(SECTION, {})
    return [
        (key, value.where)
        for key, value in found.resolved.items()
        if key in in_file and value.origin is not Origin.FILE and _of_file(found, key) != value.value
    ]


def _of_file(found: Configuration, key: str) -> object:
    row = [row for row in ORCHESTRATORD if row.key == key]
    return resolve(row, section=SECTION, flags={}, env={}, file={SECTION: {key: found.file[SECTION][key]}})[key].value


def shown(problem: Problem, path: Path, lines: Mapping[Key, int]) -> str:
    """`FILE:LINE: what is wrong`; what is not in the file without it."""
    if not problem.key:
        return problem.message
    line = line_of(lines, problem.key)
    return f"{path}: {problem.message}" if line is None else f"{path}:{line}: {problem.message}"


def as_json(problem: Problem, lines: Mapping[Key, int]) -> dict[str, object]:
    """A problem for programs."""
    key = None if problem.key in ((), config.WHOLE_FILE) else ".".join(problem.key)
    return {"key": key, "line": line_of(lines, problem.key), "message": problem.message}


def _print_json(found: _Findings) -> None:
    rows = [
        {"name": row.name, "before": row.before, "after": row.after, "when": row.change.value} for row in found.changed
    ]
    body = {
        "file": str(found.path),
        "running": found.is_running,
        "changes": rows,
        "overridden": [{"name": key, "by": by} for key, by in found.masked],
        "problems": [as_json(problem, found.lines) for problem in found.problems],
    }
    sys.stdout.write(json.dumps(body, default=str) + "\n")


def _print(found: _Findings) -> None:
    for problem in found.problems:
        sys.stderr.write(shown(problem, found.path, found.lines) + "\n")
    if found.problems:
        sys.stderr.write("nothing would change: such a file is refused\n")
        return
    if not found.is_running:
        sys.stdout.write("no orchestratord runs on this state directory; this is other than the defaults:\n")
    width = max((len(row.name) for row in found.changed), default=0)
    for row in found.changed:
        when = "" if not found.is_running else "restart  " if row.change is Change.RESTART else "live     "
        sys.stdout.write(f"{when}{row.name:<{width}}  {_words(row)}\n")
    for key, by in found.masked:
        sys.stdout.write(f"ignored  {key}: {by} holds over the file\n")
    if not found.changed:
        sys.stdout.write("nothing would change\n")


def _words(row: Difference) -> str:
    if row.key:
        return f"{_value(row.before)} -> {_value(row.after)}"
    return (
        "gone" if row.after is None else f"new: {', '.join(f'{key} = {_value(row.after[key])}' for key in row.after)}"
    )


def _value(value: object) -> str:
    return "(not set)" if value is None else json.dumps(value, ensure_ascii=False, default=str)
