"""What the `[tenants.NAME]` sections of llorch.toml mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llorch.base.errors import ConfigError
from llorch.base.ids import DEFAULT_TENANT, MODEL_ID, TENANT_NAME, ModelId, TenantId
from llorch.base.problems import Problems
from llorch.base.settings import Kind, convert_strictly
from llorch.base.settings_table import TENANT
from llorch.core.events import TenantsRead
from llorch.core.tenant import TenantLimits

SECTION = "tenants"
MODELS_MAX = 1000


def parse(file: Mapping[str, Any], problems: Problems) -> TenantsRead:
    """What a checked llorch.toml (see config.parse_text) says of tenants."""
    limits = {}
    for name, table in file.get(SECTION, {}).items():
        if not TENANT_NAME.fullmatch(name):
            problems.add(f"[{SECTION}]: a tenant's name must match {TENANT_NAME.pattern}", SECTION, name)
            continue
        limits[TenantId(name)] = _limits(name, table, problems)
    return TenantsRead(limits, limits.pop(DEFAULT_TENANT, TenantLimits()))


def _limits(name: str, table: Mapping[str, Any], problems: Problems) -> TenantLimits:
    values: dict[str, Any] = {}
    for setting in TENANT:
        key, where = setting.key, f"[{SECTION}.{name}] {setting.key}"
        if key not in table:
            continue
        with problems.at(SECTION, name, key):
            is_list = setting.kind is Kind.NAMES
            values[key] = _models(table[key], where) if is_list else convert_strictly(setting, table[key], where)
    return TenantLimits(**values)


def _models(raw: object, where: str) -> tuple[ModelId, ...]:
    if not isinstance(raw, list) or not 1 <= len(raw) <= MODELS_MAX:
        raise ConfigError(f"{where}: must be a list of 1 to {MODELS_MAX} models")
    for name in raw:
        if not isinstance(name, str) or not MODEL_ID.fullmatch(name):
            raise ConfigError(f"{where}: {name!r} is not the id of a model ({MODEL_ID.pattern})")
    return tuple(map(ModelId, raw))
