"""The `[tenants.NAME]` sections of llorch.toml: read at start, and again when the file changes or on SIGHUP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llorch.base import config, log
from llorch.base.config import Kind, Setting
from llorch.base.errors import ConfigError
from llorch.base.ids import DEFAULT_TENANT, MODEL_ID, TENANT_NAME, ModelId, TenantId
from llorch.core.events import TenantsRead
from llorch.core.tenant import TenantLimits

logger = log.get(__name__)

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


class TenantsFile:
    """The tenants that a file names; `current` is what holds."""

    def __init__(self, path: Path) -> None:
        """A file that is not there names nobody. Raises ConfigError."""
        self._path = path
        self._seen = self._mark()
        self.current = parse(config.load_file(path), path)

    def news(self) -> TenantsRead | None:
        """What holds now, when the file has changed and says something else. Asks the file system only."""
        mark = self._mark()
        if mark == self._seen or mark is None:
            return None  # a file that is gone may be about to be replaced: what it said holds
        self._seen = mark
        return self.read_again()

    def read_again(self) -> TenantsRead | None:
        """What holds now, when the file says something else; one that cannot be used is logged and changes nothing."""
        try:
            found = parse(config.load_file(self._path, must_exist=self._seen is not None), self._path)
        except ConfigError as error:
            log.event(logger, f"the tenants' limits stay as they were: {error.message}", level=40)
            return None
        if found == self.current:
            return None
        self.current = found
        log.event(logger, "the tenants' limits were read again", tenants=len(found.limits))
        return found

    def _mark(self) -> object:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
