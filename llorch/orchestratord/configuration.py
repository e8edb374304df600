"""Everything that flags, environment and one reading of llorch.toml say to an orchestratord.

A file is taken whole or not at all; what a running one cannot change of it waits for the next start.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llorch.base import config
from llorch.base.file_mark import Mark, file_mark
from llorch.base.problems import Problems
from llorch.base.settings import Change, Resolved, resolve
from llorch.base.settings_table import FAMILIES, ORCHESTRATORD
from llorch.core.events import TenantsRead
from llorch.orchestratord import demand_file, settings, tenants
from llorch.orchestratord.demand_file import Demand
from llorch.orchestratord.settings import SECTION, Settings


@dataclass(frozen=True, slots=True)
class Given:
    """What a process was started with; it holds over every reading of the file."""

    flags: Mapping[str, Any]
    env: Mapping[str, str]
    path: Path
    state_dir: Path
    must_exist: bool


def given(flags: argparse.Namespace, env: Mapping[str, str]) -> Given:
    """From a command line with --config and --state. Raises ConfigError when there is no home."""
    path, state_dir = config.config_path(env, flags.config), config.state_dir(env, flags.state)
    named = bool(flags.config or env.get("LLORCH_CONFIG"))
    return Given(vars(flags), env, path.absolute(), state_dir.absolute(), named)


@dataclass(frozen=True, slots=True)
class Configuration:
    """What one reading of the file came to, as its users want it; `file` is the text's own tables.

    `mark` is the file's from before it was read.
    """

    resolved: Mapping[str, Resolved]
    file: Mapping[str, Any]
    settings: Settings
    tenants: TenantsRead
    demand: Demand
    mark: Mark | None = field(default=None, compare=False)

    def plain(self) -> dict[str, dict[str, Any]]:
        """Section to key to value: all settings of orchestratord, of the others what the file says."""
        values = {key: found.value for key, found in self.resolved.items()}
        named = {f"{family}.{name}": dict(table) for family in FAMILIES for name, table in _tables(self.file, family)}
        return {SECTION: values, **named}


def _tables(file: Mapping[str, Any], family: str) -> list[tuple[str, Mapping[str, Any]]]:
    return list(file.get(family, {}).items())


def read(started: Given) -> Configuration:
    """Flags > environment > the file > defaults. Raises ConfigError with one clear line."""
    problems = Problems()
    mark = file_mark(started.path)
    text = config.read_text(started.path, must_exist=started.must_exist)
    found = understood(text, started, problems, mark)
    problems.must_be_none(started.path)
    return found


def understood(text: str, started: Given, problems: Problems, mark: Mark | None = None) -> Configuration:
    """What the text comes to; whatever is wrong is added to `problems`, and the rest understood without it."""
    file = config.parse_text(text, problems)
    resolved = resolve(
        ORCHESTRATORD, section=SECTION, flags=started.flags, env=started.env, file=file, problems=problems
    )
    settings.check({key: found.value for key, found in resolved.items()}, problems)
    return _made(resolved, file, started, problems, mark)


def in_force(before: Configuration, after: Configuration, started: Given) -> Configuration:
    """What holds when `after` is read while `before` held: settings that need a restart stay."""
    fixed = {row.key for row in ORCHESTRATORD if row.change is Change.RESTART}
    resolved = {key: before.resolved[key] if key in fixed else found for key, found in after.resolved.items()}
    return _made(resolved, after.file, started, Problems(), after.mark)


def _made(
    resolved: Mapping[str, Resolved],
    file: Mapping[str, Any],
    started: Given,
    problems: Problems,
    mark: Mark | None,
) -> Configuration:
    made = settings.made_of({key: found.value for key, found in resolved.items()}, started.state_dir, started.path)
    demand = demand_file.parse(file, made.demand, made.limits, problems)
    return Configuration(resolved, file, made, tenants.parse(file, problems), demand, mark)
