"""What a running orchestratord goes by, kept in its state directory, so that a change can be tried against it.

It holds what the table of settings knows, never a key or a token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llorch.base.errors import HostError
from llorch.base.settings import Origin
from llorch.orchestratord import statedir
from llorch.orchestratord.configuration import Configuration

SIZE_MAX = 16 << 20


@dataclass(frozen=True, slots=True)
class InForce:
    """`values` as Configuration.plain has them; `flags` and `env` are what the process was started with."""

    config_path: Path
    flags: Mapping[str, Any]
    env: Mapping[str, str]
    values: Mapping[str, Mapping[str, Any]]


def write(found: Configuration) -> None:
    """Say what holds from now on. Raises HostError."""
    by_origin: dict[Origin, dict[str, Any]] = {origin: {} for origin in Origin}
    for key, setting in found.resolved.items():
        place = setting.where if setting.origin is Origin.ENV else key
        by_origin[setting.origin][place] = setting.value
    body = {
        "config": str(found.settings.config_path),
        "flags": by_origin[Origin.FLAG],
        "environment": {name: str(value) for name, value in by_origin[Origin.ENV].items()},
        "values": found.plain(),
    }
    statedir.write_json(found.settings.state_dir / statedir.SETTINGS_FILE, body)


def read(folder: Path) -> InForce | None:
    """What the orchestratord that runs on the directory goes by; None: none runs. Raises HostError."""
    if statedir.running(folder) is None:
        return None
    path = folder / statedir.SETTINGS_FILE
    try:
        with open(path, "rb") as file:
            body = json.loads(file.read(SIZE_MAX))
        return InForce(Path(body["config"]), body["flags"], body["environment"], body["values"])
    except FileNotFoundError:
        raise HostError("the orchestratord that runs there is of an older version: it does not say") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HostError(f"{path} cannot be read: {error}") from None
