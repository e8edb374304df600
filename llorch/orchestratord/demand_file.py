"""What the `[models.ID]` and `[pools.NAME]` sections of llorch.toml mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llorch.base.errors import ConfigError, UsageError
from llorch.base.ids import MODEL_ID, ModelId, PoolId
from llorch.base.problems import Problems
from llorch.base.settings import Kind, convert_strictly
from llorch.base.settings_table import MODEL
from llorch.base.spelling import did_you_mean
from llorch.core.demand_settings import DemandRead, DemandSettings, ModelLimits
from llorch.host import wake
from llorch.host.targets import SshTarget, find_target, memory_limit_bytes

LOCAL = PoolId("local")
NAMES_MAX = 100


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


def parse(file: Mapping[str, Any], settings: DemandSettings | None, default: ModelLimits, problems: Problems) -> Demand:
    """What a checked llorch.toml says; `settings` None: nothing is loaded on demand."""
    pools: dict[PoolId, Profile] = {LOCAL: Profile(None)}
    for name, table in file.get("pools", {}).items():
        pool = PoolId(name.lower())
        pools.setdefault(pool, Profile(None))  # a wrong one is there, for those who name it
        with problems.at("pools", name):
            pools[pool] = _profile(name, table, file)
    models = {}
    for name, table in file.get("models", {}).items():
        if not MODEL_ID.fullmatch(name):
            problems.add(f"[models]: a model's id must match {MODEL_ID.pattern}", "models", name)
            continue
        models[ModelId(name)] = _limits(name, table, default, pools, problems)
    return Demand(DemandRead(settings, models, default, tuple(pools)), pools)


def _profile(name: str, table: Mapping[str, Any], file: Mapping[str, Any]) -> Profile:
    """Of pool `local` labels and limits count; the rest is for other machines that reach this one."""
    where = f"[pools.{name}]"
    try:
        target = find_target(name, file)
    except UsageError as error:
        raise ConfigError(f"{where}: {error.message}") from None
    mac = table.get("mac")  # find_target has checked its form
    packed = None if mac is None else wake.parse_mac(mac)
    labels, memory = _names(table.get("labels", []), f"{where} labels"), memory_limit_bytes(name, table)
    return Profile(None, None, labels, memory) if name.lower() == LOCAL else Profile(target, packed, labels, memory)


def _limits(
    name: str,
    table: Mapping[str, Any],
    default: ModelLimits,
    pools: Mapping[PoolId, Profile],
    problems: Problems,
) -> ModelLimits:
    values: dict[str, Any] = {"ttl_s": default.ttl_s, "pinned": default.pinned}
    for setting in MODEL:
        key, where = setting.key, f"[models.{name}] {setting.key}"
        if key not in table:
            continue
        with problems.at("models", name, key):
            is_list = setting.kind is Kind.NAMES
            values[key] = _pools(table[key], where, pools) if is_list else convert_strictly(setting, table[key], where)
    limits = ModelLimits(**values)
    if limits.replicas_min > limits.replicas_max:
        if "replicas_max" in table:
            said = f"replicas_min is {limits.replicas_min}, replicas_max {limits.replicas_max}"
            problems.add(f"[models.{name}]: {said}", "models", name, "replicas_max")
        values["replicas_max"] = limits.replicas_min
    return ModelLimits(**values)


def _pools(raw: object, where: str, pools: Mapping[PoolId, Profile]) -> tuple[PoolId, ...]:
    named = tuple(PoolId(name.lower()) for name in _names(raw, where))
    for name in named:
        if name not in pools:
            hint = did_you_mean(name, list(pools))
            raise ConfigError(f"{where}: there is no pool '{name}'{hint}; add it with 'llorch pool register'")
    return named


def _names(raw: object, where: str) -> tuple[str, ...]:
    if not isinstance(raw, list) or len(raw) > NAMES_MAX or not all(isinstance(name, str) and name for name in raw):
        raise ConfigError(f"{where}: must be a list of at most {NAMES_MAX} names")
    return tuple(raw)
