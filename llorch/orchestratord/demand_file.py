"""The `[models.ID]` and `[pools.NAME]` sections of llorch.toml: read at start, and again when the file changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llorch.base import config
from llorch.base.config import Kind, Setting
from llorch.base.errors import ConfigError, UsageError
from llorch.base.ids import MODEL_ID, ModelId, PoolId
from llorch.core.demand_settings import DemandRead, DemandSettings, ModelLimits
from llorch.host import wake
from llorch.host.targets import SshTarget, find_target, memory_limit_bytes
from llorch.orchestratord.section_file import SectionFile

LOCAL = PoolId("local")
REPLICAS_MAX = 1000
SECONDS_MAX = 10 * 365 * 86_400
NAMES_MAX = 100
_NUMBERS = (
    Setting("replicas_min", Kind.INTEGER, 0, "workers that are always kept"),
    Setting("replicas_max", Kind.INTEGER, 1, "workers that a long queue may call for"),
    Setting("ttl_s", Kind.NUMBER, 600.0, "how long an idle worker stays"),
)


@dataclass(frozen=True, slots=True)
class Profile:
    """One pool: how it is reached (None: it is this host), and what wakes it (None: nothing does).

    `memory_max_bytes`: of main memory, for all workers there together; None: all there is.
    """

    target: SshTarget | None
    mac: bytes | None = None
    labels: tuple[str, ...] = ()
    memory_max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Demand:
    """What holds: for the brain, and for whoever carries its commands out. Pool `local` is always there."""

    read: DemandRead
    pools: Mapping[PoolId, Profile]


def parse(file: Mapping[str, Any], path: Path, settings: DemandSettings | None, default: ModelLimits) -> Demand:
    """What a checked llorch.toml says; `settings` None: nothing is loaded on demand. Raises ConfigError."""
    pools: dict[PoolId, Profile] = {LOCAL: Profile(None)}
    for name, table in file.get("pools", {}).items():
        pools[PoolId(name.lower())] = _profile(name, table, file, path)
    models = {}
    for name, table in file.get("models", {}).items():
        if not MODEL_ID.fullmatch(name):
            raise ConfigError(f"config file {path}: [models]: a model's id must match {MODEL_ID.pattern}")
        models[ModelId(name)] = _limits(table, f"config file {path}: [models.{name}]", default, pools)
    return Demand(DemandRead(settings, models, default, tuple(pools)), pools)


def _profile(name: str, table: Mapping[str, Any], file: Mapping[str, Any], path: Path) -> Profile:
    """Of pool `local` labels and limits count; the rest is for other machines that reach this one."""
    where = f"config file {path}: [pools.{name}]"
    try:
        target = find_target(name, file)
    except UsageError as error:
        raise ConfigError(f"{where}: {error.message}") from None
    mac = table.get("mac")  # find_target has checked its form
    packed = None if mac is None else wake.parse_mac(mac)
    labels, memory = _names(table.get("labels", []), f"{where} labels"), memory_limit_bytes(name, table)
    return Profile(None, None, labels, memory) if name == LOCAL else Profile(target, packed, labels, memory)


def _limits(table: Mapping[str, Any], where: str, default: ModelLimits, pools: Mapping[PoolId, Profile]) -> ModelLimits:
    values = {
        setting.key: _number(setting, table[setting.key], f"{where} {setting.key}")
        for setting in _NUMBERS
        if setting.key in table
    }
    pinned = table.get("pinned", default.pinned)
    if not isinstance(pinned, bool):
        raise ConfigError(f"{where} pinned: expected true or false, got {pinned!r}")
    named = tuple(PoolId(name.lower()) for name in _names(table.get("pools", []), f"{where} pools"))
    for name in named:
        if name not in pools:
            hint = config.did_you_mean(name, list(pools))
            raise ConfigError(f"{where} pools: there is no pool '{name}'{hint}; add it with 'llorch pool register'")
    limits = ModelLimits(**{"ttl_s": default.ttl_s, **values}, pinned=pinned, pools=named)
    if limits.replicas_min > limits.replicas_max:
        if "replicas_max" in table:
            raise ConfigError(f"{where}: replicas_min is {limits.replicas_min}, replicas_max {limits.replicas_max}")
        limits = ModelLimits(limits.replicas_min, limits.replicas_min, limits.ttl_s, pinned, named)
    return limits


def _number(setting: Setting, raw: object, where: str) -> Any:
    if isinstance(raw, str):
        raise ConfigError(f"{where}: expected {setting.kind.value}, got {raw!r}")
    value = config.convert(setting, raw, where)
    most = REPLICAS_MAX if setting.kind is Kind.INTEGER else SECONDS_MAX
    if not 0 <= value <= most:
        raise ConfigError(f"{where}: must be between 0 and {most}")
    return value


def _names(raw: object, where: str) -> tuple[str, ...]:
    if not isinstance(raw, list) or len(raw) > NAMES_MAX or not all(isinstance(name, str) and name for name in raw):
        raise ConfigError(f"{where}: must be a list of at most {NAMES_MAX} names")
    return tuple(raw)


class DemandFile(SectionFile[Demand]):
    """What the file says of models and pools."""

    def __init__(self, path: Path, settings: DemandSettings | None, default: ModelLimits) -> None:
        """Raises ConfigError."""
        super().__init__(
            path,
            lambda file: parse(file, path, settings, default),
            name="models and pools",
            counts=lambda found: {"models": len(found.read.models), "pools": len(found.pools)},
        )
