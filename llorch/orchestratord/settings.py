"""What an operator may set about orchestratord: one row per setting, for flags, environment and `llorch.toml` alike."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from llorch.base import config
from llorch.base.config import Kind, Setting
from llorch.base.errors import ConfigError
from llorch.base.log import LogFormat
from llorch.core.demand_settings import DemandSettings, ModelLimits
from llorch.core.settings import UNBOUNDED, BrainSettings

SECTION = "orchestratord"


class Mode(Enum):
    HOME = "home"
    LAB = "lab"
    PLATFORM = "platform"


class LanAccess(Enum):
    """What binding beyond loopback needs."""

    GUARDED = "guarded"
    OPEN = "open"


BRAIN, DEMAND, LIMITS = BrainSettings(), DemandSettings(), ModelLimits()
SETTINGS = (
    Setting("port", Kind.INTEGER, 8080, "port to listen on; 0 takes a free one"),
    Setting("bind", Kind.TEXT, "127.0.0.1", "address to listen on"),
    Setting(
        "mode", Kind.TEXT, "home", "home: loopback needs no key; lab, platform: keys", None, ("home", "lab", "platform")
    ),
    Setting("queue_capacity", Kind.INTEGER, BRAIN.queue_capacity, "jobs that may wait; -1: no bound"),
    Setting("insecure_lan", Kind.SWITCH, False, "listen beyond loopback without any key"),
    Setting("tls_cert", Kind.TEXT, None, "PEM file with the server's certificate chain"),
    Setting("tls_key", Kind.TEXT, None, "PEM file with its private key"),
    Setting("queue_timeout_s", Kind.NUMBER, BRAIN.queue_timeout_interactive_s, "longest wait of an interactive job"),
    Setting("first_token_timeout_s", Kind.NUMBER, BRAIN.first_token_timeout_s, "longest wait for a first token"),
    Setting("stall_timeout_s", Kind.NUMBER, BRAIN.stall_timeout_s, "longest silence between tokens"),
    Setting("disconnect_grace_s", Kind.NUMBER, BRAIN.disconnect_grace_s, "how long a dropped stream may come back"),
    Setting("output_kept_s", Kind.NUMBER, 600.0, "how long an output can be read after its job's end"),
    Setting("record_kept_s", Kind.NUMBER, 7 * 86400.0, "how long a job's record is kept"),
    Setting("grace_s", Kind.NUMBER, 10.0, "how long SIGTERM waits for running jobs"),
    Setting("connections_max", Kind.INTEGER, 10_000, "open connections at once"),
    Setting("policy", Kind.TEXT, None, "policy script; else policy.star in the state directory, if there"),
    Setting("autospawn", Kind.SWITCH, False, "load models on demand, on this host and on the pools of llorch.toml"),
    Setting("idle_ttl_s", Kind.NUMBER, LIMITS.ttl_s, "how long an idle worker that autospawn started stays"),
    Setting("spawn_timeout_s", Kind.NUMBER, DEMAND.spawn_limit_s, "how long loading a model may take"),
    Setting("residency_min_s", Kind.NUMBER, DEMAND.residency_min_s, "how long a model stays before it makes room"),
    Setting("swap_age_max_s", Kind.NUMBER, DEMAND.swap_age_max_s, "longest wait for a model that others keep out"),
    Setting("scale_out_eta_s", Kind.NUMBER, DEMAND.scale_out_eta_s, "queue that calls for one more worker, in time"),
    Setting("log_format", Kind.TEXT, "text", "form of the log lines", None, ("text", "json")),
    Setting("log_file", Kind.TEXT, None, "log to this file, rotated, not to stderr"),
    Setting("log_level", Kind.TEXT, "info", "least level that is logged", None, ("debug", "info", "warning", "error")),
)


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
    for setting in SETTINGS:
        flag = "--" + setting.key.replace("_", "-")
        if setting.kind is Kind.SWITCH:
            parser.add_argument(flag, dest=setting.key, action="store_true", default=None, help=setting.help)
        else:
            metavar = "|".join(setting.choices) or setting.kind.value.upper()
            shown = "" if setting.default is None else f" (default {setting.default})"
            parser.add_argument(flag, dest=setting.key, metavar=metavar, help=setting.help + shown)


def load(flags: argparse.Namespace, env: Mapping[str, str]) -> Settings:
    """Flags > environment > `llorch.toml` > defaults. Raises ConfigError with one clear line."""
    path = config.config_path(env, flags.config)
    file = config.load_file(path, must_exist=bool(flags.config or env.get("LLORCH_CONFIG")))
    resolved = config.resolve(SETTINGS, section=SECTION, flags=vars(flags), env=env, file=file)
    values = {key: value.value for key, value in resolved.items()}
    _check(values)
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
        state_dir=config.state_dir(env, flags.state).absolute(),
        config_path=path.absolute(),
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


def _check(values: Mapping[str, Any]) -> None:
    if not 0 <= values["port"] <= 65535:
        raise ConfigError(f"--port {values['port']}: must be between 0 and 65535")
    if values["queue_capacity"] < 0 and values["queue_capacity"] != UNBOUNDED:
        raise ConfigError(f"--queue-capacity {values['queue_capacity']}: must be 0 or more, or -1 for no bound")
    if (values["tls_cert"] is None) != (values["tls_key"] is None):
        raise ConfigError("--tls-cert and --tls-key go together")
    if values["policy"] is not None and values["mode"] == Mode.PLATFORM.value:
        raise ConfigError("--policy is not for --mode platform: its policy is built in and immutable")
    _check_durations(values, [setting.key for setting in SETTINGS if setting.key.endswith("_s")])


def _check_durations(values: Mapping[str, Any], keys: Sequence[str]) -> None:
    for key in keys:
        if not 0 <= values[key] <= 10 * 365 * 86400:
            raise ConfigError(f"--{key.replace('_', '-')} {values[key]}: must be a number of seconds, 0 or more")
