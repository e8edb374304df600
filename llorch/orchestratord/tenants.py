"""The `[tenants.NAME]` sections of llorch.toml: read at start, and again when the file changes or on SIGHUP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llorch.base import config
from llorch.base.config import Kind, Setting
from llorch.base.errors import ConfigError
from llorch.base.ids import DEFAULT_TENANT, MODEL_ID, TENANT_NAME, ModelId, TenantId
from llorch.core.events import TenantsRead
from llorch.core.tenant import TenantLimits
from llorch.orchestratord.section_file import SectionFile

SECTION = "tenants"
NUMBER_MAX = 1e15
MODELS_MAX = 1000
_NUMBERS = (
    Setting("weight", Kind.NUMBER, 1.0, "share of generated tokens beside the others' weights"),
    Setting("running_max", Kind.INTEGER, None, "jobs on workers at once"),
    Setting("queued_max", Kind.INTEGER, None, "jobs that may wait"),
    Setting("tokens_per_day", Kind.INTEGER, None, "prompt and generated tokens of a day in UTC"),
    Setting("requests_per_s", Kind.NUMBER, None, "jobs submitted in a second"),
)


def parse(file: Mapping[str, Any], path: Path) -> TenantsRead:
    """What a checked llorch.toml (see config.load_file) says of tenants. Raises ConfigError."""
    limits = {}
    for name, table in file.get(SECTION, {}).items():
        if not TENANT_NAME.fullmatch(name):
            raise ConfigError(f"config file {path}: [{SECTION}]: a tenant's name must match {TENANT_NAME.pattern}")
        limits[TenantId(name)] = _limits(table, f"config file {path}: [{SECTION}.{name}]")
    return TenantsRead(limits, limits.pop(DEFAULT_TENANT, TenantLimits()))


def _limits(table: Mapping[str, Any], where: str) -> TenantLimits:
    values = {
        setting.key: _number(setting, table[setting.key], f"{where} {setting.key}")
        for setting in _NUMBERS
        if setting.key in table
    }
    models = _models(table["models"], f"{where} models") if "models" in table else None
    return TenantLimits(**values, models=models)


def _number(setting: Setting, raw: object, where: str) -> Any:
    if isinstance(raw, str):
        raise ConfigError(f"{where}: expected {setting.kind.value}, got {raw!r}")
    value = config.convert(setting, raw, where)
    low = 1 if setting.kind is Kind.INTEGER else 0.001
    if not low <= value <= NUMBER_MAX:
        raise ConfigError(f"{where}: must be from {low} to {NUMBER_MAX:g}")
    return value


def _models(raw: object, where: str) -> tuple[ModelId, ...]:
    if not isinstance(raw, list) or not 1 <= len(raw) <= MODELS_MAX:
        raise ConfigError(f"{where}: must be a list of 1 to {MODELS_MAX} models")
    for name in raw:
        if not isinstance(name, str) or not MODEL_ID.fullmatch(name):
            raise ConfigError(f"{where}: {name!r} is not the id of a model ({MODEL_ID.pattern})")
    return tuple(map(ModelId, raw))


class TenantsFile(SectionFile[TenantsRead]):
    """The tenants that a file names."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError."""
        super().__init__(
            path,
            lambda file: parse(file, path),
            name="the tenants' limits",
            counts=lambda found: {"tenants": len(found.limits)},
        )
