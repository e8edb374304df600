"""Where a worker announces itself: the callback it was given, the configured orchestrator, or the one of this host."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from llorch.base import addresses, callback
from llorch.base.errors import ConfigError

READY_PATH = "/v2/workers/ready"
_READY_PATHS = (READY_PATH, "/workers/ready", "/workers/register")
STATE_FILE_NAME = "orchestratord.json"
STATE_SIZE_MAX = 1 << 16


@dataclass(frozen=True, slots=True)
class Target:
    """Where to announce; `base` None is a foreign callback that takes no heartbeats."""

    ready_url: str
    base: str | None


def target_of(url: str) -> Target:
    """A callback URL as it is; without a path, the orchestrator's ready path. Raises ConfigError."""
    if "://" not in url:
        url = "http://" + url
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname is not None and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError("the orchestrator's URL must look like http://HOST:PORT")
    if parts.path.strip("/") == "":
        base = f"{parts.scheme}://{parts.netloc}"
        return Target(base + READY_PATH, base)
    known = next((path for path in _READY_PATHS if parts.path.endswith(path)), None)
    return Target(url, url.partition(known)[0] if known else None)


def finder(callback_url: str | None, orchestrator: str | None, state_dir: Path) -> Callable[[], Target | None]:
    """How the orchestrator is found: callback, configuration, else the file that this user's orchestratord keeps.

    With the callback `none` there is none to be found.
    """
    if callback_url == callback.NOBODY:
        return lambda: None
    named = callback_url or orchestrator
    if named is not None:
        target = target_of(named)
        return lambda: target
    return lambda: read_state_file(state_dir / STATE_FILE_NAME)


def read_state_file(path: Path) -> Target | None:
    """The orchestratord that wrote this file, if it can be read."""
    try:
        with open(path, "rb") as file:
            url = json.loads(file.read(STATE_SIZE_MAX))["url"]
        return target_of(url) if isinstance(url, str) else None
    except (OSError, ValueError, KeyError, TypeError, ConfigError):
        return None


def reachable_url(bind: str, port: int, target: Target | None) -> str:
    """Our URL as the orchestrator can reach it: the bound address, or for a wildcard the one our packets leave from."""
    address = addresses.parse(bind)
    own = _own_address(target) if address is not None and address.is_unspecified else None
    return addresses.local_url(own or bind, port)


def _own_address(target: Target | None) -> str | None:
    if target is None:
        return None
    parts = urlsplit(target.ready_url)
    try:
        rows = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_DGRAM)
        with socket.socket(rows[0][0], socket.SOCK_DGRAM) as probe:
            probe.connect(rows[0][4])  # no packet is sent: it only asks the routing table
            return str(probe.getsockname()[0])
    except OSError:
        return None
