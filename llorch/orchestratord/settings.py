"""The settings of orchestratord as its parts use them, made of the rows of the table."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from llorch.base import settings
from llorch.base.log import LogFormat
from llorch.base.problems import Problems
from llorch.base.settings_table import ORCHESTRATORD
from llorch.core.demand_settings import DemandSettings, ModelLimits
from llorch.core.settings import BrainSettings

SECTION = "orchestratord"


class Mode(Enum):
    HOME = "home"
    LAB = "lab"
    PLATFORM = "platform"


class LanAccess(Enum):
    """What binding beyond loopback needs."""

    GUARDED = "guarded"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one orchestratord; durations are seconds."""

    port: int
    bind: str
    mode: Mode
    lan_access: LanAccess
    tls_cert: str | None
    tls_key: str | None
    output_kept_s: float
    record_kept_s: float
    grace_s: float
    connections_max: int
    policy: Path | None
    log_format: LogFormat
    log_file: Path | None
    log_level: str
    state_dir: Path
    config_path: Path
    brain: BrainSettings
    demand: DemandSettings | None
    limits: ModelLimits


def add_flags(parser: argparse.ArgumentParser) -> None:
    """One flag per setting, plus --state and --config."""
    parser.add_argument("--state", metavar="DIR", help="where queue, records and outputs are kept")
    parser.add_argument("--config", metavar="FILE", help="llorch.toml to read")
    settings.add_flags(parser, ORCHESTRATORD)


def check(values: Mapping[str, Any], problems: Problems) -> None:
    """What no single value shows."""
    if (values["tls_cert"] is None) != (values["tls_key"] is None):
        problems.add("--tls-cert and --tls-key go together")
    if values["policy"] is not None and values["mode"] == Mode.PLATFORM.value:
        problems.add("--policy is not for --mode platform: its policy is built in and immutable")


def made_of(values: Mapping[str, Any], state_dir: Path, config_path: Path) -> Settings:
    """The settings of checked values, one per row of the table."""
    return Settings(
        port=values["port"],
        bind=values["bind"],
        mode=Mode(values["mode"]),
        lan_access=LanAccess.OPEN if values["insecure_lan"] else LanAccess.GUARDED,
        tls_cert=values["tls_cert"],
        tls_key=values["tls_key"],
        output_kept_s=values["output_kept_s"],
        record_kept_s=values["record_kept_s"],
        grace_s=values["grace_s"],
        connections_max=values["connections_max"],
        policy=None if values["policy"] is None else Path(values["policy"]).absolute(),
        log_format=LogFormat(values["log_format"]),
        log_file=None if values["log_file"] is None else Path(values["log_file"]).absolute(),
        log_level=values["log_level"],
        state_dir=state_dir,
        config_path=config_path,
        brain=_brain(values),
        demand=_demand(values) if values["autospawn"] else None,
        limits=ModelLimits(ttl_s=values["idle_ttl_s"]),
    )


def _brain(values: Mapping[str, Any]) -> BrainSettings:
    return BrainSettings(
        queue_capacity=values["queue_capacity"],
        queue_timeout_interactive_s=values["queue_timeout_s"],
        first_token_timeout_s=values["first_token_timeout_s"],
        stall_timeout_s=values["stall_timeout_s"],
        disconnect_grace_s=values["disconnect_grace_s"],
    )


def _demand(values: Mapping[str, Any]) -> DemandSettings:
    return DemandSettings(
        spawn_limit_s=values["spawn_timeout_s"],
        residency_min_s=values["residency_min_s"],
        swap_age_max_s=values["swap_age_max_s"],
        scale_out_eta_s=values["scale_out_eta_s"],
    )
