"""Two policies compared: on the jobs of a journal (`replay`), or on jobs drawn for a described fleet (`simulate`)."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llorch.base.errors import ConfigError, UsageError
from llorch.core.events import TenantsRead, ZoneChanged
from llorch.core.figures import Account, PolicyUse, grouped
from llorch.core.rehearsal import Scene
from llorch.core.settings import BrainSettings
from llorch.orchestratord import configuration, fleet_file, rehearsal_table, replaying
from llorch.orchestratord.policy_file import read_script
from llorch.orchestratord.rehearsal_table import Column
from llorch.orchestratord.rehearsing import BUILTIN, Telling, rehearsed
from llorch.store.journal import read_journal

# How often a script that declined all workers is asked again: in production more often, but a night of it takes hours.
DECLINED_MAX_S = 300.0
DURATION_MAX_S = 366 * 86_400.0
# A Monday at midnight: scripts are told weekday and hour.
SIMULATED_START = datetime(2024, 1, 1, tzinfo=UTC).timestamp()
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def replay(arguments: argparse.Namespace) -> int:
    """Compare what was with both policies; the exit code. Raises LlorchError."""
    now = time.time()
    since = 0.0 if arguments.since is None else moment(arguments.since, now, "--since")
    until = float("inf") if arguments.until is None else moment(arguments.until, now, "--until")
    if since >= until:
        raise UsageError("--since must be before --until")
    policies = {"old": _source(arguments.old)}
    if arguments.policy is not None or arguments.old is not None:
        policies["new"] = _source(arguments.policy)
    journal = read_journal(Path(arguments.journal), since, until)
    if not journal.jobs:
        raise ConfigError(f"the journal {arguments.journal} holds no job of that time")
    cast = replaying.cast_of(journal)
    _warn(cast)
    settings, tenants = _set_up(arguments)
    zone = ZoneChanged(time.localtime(journal.jobs[0].accepted_at).tm_gmtoff)
    scene = Scene(
        cast.workers,
        replaying.arrivals_of(journal.jobs),
        settings,
        pools=journal.pools,
        opening=(tenants, zone),
    )
    fates = replaying.fates_of(journal.jobs)
    groups, span_s = grouped(fates, max(fate.ended_at or fate.arrived_at for fate in fates))
    recorded = Column("recorded", "as it was", Account(groups, PolicyUse(), span_s))
    columns = [recorded, *_play(scene, policies)]
    facts = {
        "jobs": len(journal.jobs),
        "workers": len(cast.workers),
        "guessed_workers": list(cast.guessed),
        "first_at": journal.jobs[0].accepted_at,
        "last_at": journal.jobs[-1].accepted_at,
    }
    return _print(columns, facts, arguments)


def simulate(arguments: argparse.Namespace) -> int:
    """Draw arrivals and compare the policies; the exit code. Raises LlorchError."""
    if arguments.example:
        sys.stdout.write(fleet_file.EXAMPLE)
        return 0
    if arguments.fleet is None:
        raise UsageError("name a fleet: --fleet FLEET.toml (--example prints one)")
    if not 0 < arguments.duration_s <= DURATION_MAX_S:
        raise UsageError(f"--duration-s must be more than 0 and at most {DURATION_MAX_S:.0f}")
    begin = SIMULATED_START if arguments.start is None else moment(arguments.start, time.time(), "--start")
    policies = {"built-in": _source(None)}
    if arguments.policy is not None:
        policies["new"] = _source(arguments.policy)
    fleet = fleet_file.read_fleet(Path(arguments.fleet))
    arrivals = fleet.arrivals(arguments.seed, begin, arguments.duration_s)
    if not arrivals:
        raise ConfigError("no job arrives in that time: choose a longer --duration-s or a larger per_minute")
    zone = 0 if arguments.start is None else time.localtime(begin).tm_gmtoff
    settings, tenants = _set_up(arguments)
    scene = Scene(fleet.workers, arrivals, settings, opening=(tenants, ZoneChanged(zone)))
    facts = {"jobs": len(arrivals), "workers": len(fleet.workers), "seed": arguments.seed}
    return _print(_play(scene, policies), facts, arguments)


def moment(text: str, now: float, where: str) -> float:
    """`24h` before `now`, Unix seconds, or an ISO time (local unless it says otherwise). Raises UsageError."""
    if ago := _AGO.fullmatch(text):
        return now - float(ago[1]) * _UNIT_S[ago[2]]
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"{where} '{text}': expected 24h (ago), 2026-05-01T09:00, or Unix seconds") from None


def _source(path: str | None) -> tuple[str, str | None]:
    """A policy's name and source; None: the built-in one."""
    if path is None:
        return BUILTIN, None
    return Path(path).name, read_script(Path(path))


def _set_up(arguments: argparse.Namespace) -> tuple[BrainSettings, TenantsRead]:
    """Settings and tenants as the daemon would have them here: environment, `llorch.toml`, defaults."""
    flags = argparse.Namespace(config=arguments.config, state=None)
    found = configuration.read(configuration.given(flags, os.environ))
    return replace(found.settings.brain, declined_max_s=DECLINED_MAX_S), found.tenants


def _play(scene: Scene, policies: Mapping[str, tuple[str, str | None]]) -> list[Column]:
    """One column for each policy; the same policy twice is played once."""
    played: dict[str | None, Account] = {}
    for title, (name, source) in policies.items():
        if source not in played:
            played[source] = asyncio.run(rehearsed(scene, name, source, Telling(title)))
    return [Column(title, name, played[source]) for title, (name, source) in policies.items()]


def _warn(cast: replaying.Cast) -> None:
    if cast.guessed:
        _tell(f"not known any more, so guessed from their jobs: {_some(cast.guessed)}")
    if cast.unmeasured:
        _tell(f"no finished job tells how fast they are: {_some(cast.unmeasured)}")


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _tell(line: str) -> None:
    sys.stderr.write(f"llorch: {line}\n")


def _print(columns: list[Column], facts: Mapping[str, Any], arguments: argparse.Namespace) -> int:
    if arguments.json:
        sys.stdout.write(json.dumps(rehearsal_table.as_json(columns, facts), ensure_ascii=False) + "\n")
        return 0
    sys.stdout.write(rehearsal_table.table(columns))
    for line in rehearsal_table.remarks(columns):
        sys.stdout.write(line + "\n")
    sys.stdout.write(f"{rehearsal_table.summary(columns)} workers={facts['workers']}\n")
    return 0
