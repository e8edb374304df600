"""The text of service definitions: systemd units and launchd property lists. Pure: values in, text out.

A unit holds no secret, only the paths of files that do: every user of the machine can read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

# systemd restarts a daemon that has not said for so long that its event loop turns.
WATCHDOG_S = 60
# A large model on a slow disk.
START_TIMEOUT_S = 1800
# What a daemon takes, beyond its grace time, to close its connections and its files.
STOP_EXTRA_S = 20
# A wrong command line or configuration, a model that is not there: no better by trying again.
EXITS_FOR_GOOD = (2, 4)


class Scope(Enum):
    """Whose service manager runs it."""

    USER = "user"
    SYSTEM = "system"


class Left(Enum):
    """What of a stopped daemon's children."""

    ENDS = "they end with it"
    STAYS = "they stay"


@dataclass(frozen=True, slots=True)
class Definition:
    """One daemon as a service. `account` runs it in Scope.SYSTEM; `grace_s` is how long it drains when stopped."""

    name: str
    description: str
    argv: tuple[str, ...]
    scope: Scope
    grace_s: float
    children: Left
    account: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


def systemd(service: Definition) -> str:
    """The unit file. Raises ValueError for a word that no unit can hold."""
    network = ["Wants=network-online.target", "After=network-online.target"] if service.scope is Scope.SYSTEM else []
    stays = service.children is Left.STAYS
    lines = [
        "# Written by 'llorch service install'; changes belong into a drop-in ('systemctl edit').",
        "[Unit]",
        f"Description={_plain(service.description)}",
        *network,
        # Services that stay: it is tried again for ever, slowly.
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        # The program itself is not searched for variables.
        f"ExecStart={' '.join([quoted(service.argv[0]), *map(argument, service.argv[1:])])}",
        *(["ExecReload=/bin/kill -HUP $MAINPID"] if stays else []),
        "Restart=on-failure",
        "RestartSec=5",
        f"RestartPreventExitStatus={' '.join(map(str, EXITS_FOR_GOOD))}",
        f"WatchdogSec={WATCHDOG_S}",
        f"TimeoutStartSec={START_TIMEOUT_S}",
        f"TimeoutStopSec={service.grace_s + STOP_EXTRA_S:g}",
        # Workers that orchestratord spawned are no part of it: they serve on while it restarts.
        f"KillMode={'process' if stays else 'mixed'}",
        *(f"Environment={quoted(f'{name}={value}')}" for name, value in sorted(service.environment.items())),
        *([f"User={service.account}"] if service.scope is Scope.SYSTEM else []),
        "NoNewPrivileges=yes",
        "LimitNOFILE=65536",
        "UMask=0077",
        "",
        "[Install]",
        f"WantedBy={'multi-user.target' if service.scope is Scope.SYSTEM else 'default.target'}",
    ]
    return "\n".join(lines) + "\n"


def argument(word: str) -> str:
    """One word of a command line as systemd reads it back: without a meaning of `$` either."""
    return quoted(word.replace("$", "$$"))


def quoted(word: str) -> str:
    """One word as systemd reads it back: quotes, backslashes and `%` lose their meaning."""
    if any(not character.isprintable() for character in word):
        raise ValueError(f"{word!r} holds a control character")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("%", "%%")


def launchd(service: Definition, log_path: str) -> bytes:
    """The property list of launchd's own service; it knows neither readiness nor a watchdog. Not tested on a Mac."""
    import plistlib

    return plistlib.dumps(
        {
            "Label": service.name,
            "ProgramArguments": list(service.argv),
            "EnvironmentVariables": dict(service.environment),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": 10,
            "ExitTimeOut": int(service.grace_s + STOP_EXTRA_S),
            "ProcessType": "Interactive",
            "StandardOutPath": log_path,
            "StandardErrorPath": log_path,
            **({"UserName": service.account} if service.scope is Scope.SYSTEM else {}),
        },
        sort_keys=False,
    )
