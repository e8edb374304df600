"""Which machine a short name means: a `[pools.NAME]` profile, else what ssh's own config or DNS make of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llorch.base.errors import ConfigError, NotFound, UsageError

EVERY = "all"
_LOCAL = "local"  # orchestratord's own host: its profile is no SSH destination unless it names one
_MIB = 1 << 20
_MEMORY_MIB_MAX = 1 << 30
TUNNEL_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_MAC = re.compile(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}")


@dataclass(frozen=True, slots=True)
class SshTarget:
    """One SSH destination. None leaves a value to ~/.ssh/config.

    `program` is llorch-pool's path over there, `repo` its source checkout.
    With `tunnel` its workers stay on its loopback.
    """

    name: str
    host: str
    user: str | None = None
    port: int | None = None
    program: str | None = None
    repo: str | None = None
    tunnel: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """What llorch-pool over there is to be told by its environment."""
        return {} if self.repo is None else {"LLORCH_REPO": self.repo}

    @property
    def ssh_words(self) -> list[str]:
        """The words after `ssh` that reach the same machine by hand."""
        port = [] if self.port is None else ["-p", str(self.port)]
        return [*port, self.host if self.user is None else f"{self.user}@{self.host}"]


def find_target(name: str, config: Mapping[str, Any]) -> SshTarget:
    """The target of one name; `config` is the parsed llorch.toml. Raises UsageError, ConfigError."""
    profile = config.get("pools", {}).get(name)
    if profile is not None:
        return _from_profile(name, profile)
    user, at, host = name.rpartition("@")
    # A leading dash would be read as an option by the ssh commands that our hints print.
    if not host or host.startswith("-") or (at and not user) or any(c.isspace() or not c.isprintable() for c in name):
        raise UsageError(f"'{name}' is not a host name")
    return SshTarget(name, host, user or None)


def find_targets(names: Sequence[str], config: Mapping[str, Any]) -> list[SshTarget]:
    """The targets of `--host` values: names, comma-separated lists, `all` profiles; each once, in order."""
    pools = config.get("pools", {})
    profiles = [name for name, profile in pools.items() if name != _LOCAL or "host" in profile]
    wanted: list[str] = []
    for name in (part.strip() for value in names for part in value.split(",")):
        if name == EVERY and EVERY not in profiles:
            if not profiles:
                raise NotFound(
                    "--host all: no pool is registered; add one with 'llorch pool register NAME --host HOST'"
                )
            wanted += profiles
        else:
            wanted.append(name)
    return [find_target(name, config) for name in dict.fromkeys(wanted)]


def _from_profile(name: str, profile: Mapping[str, Any]) -> SshTarget:
    host, user, port, path, repo = (profile.get(key) for key in ("host", "user", "port", "path", "repo"))
    for key, value in (("host", host), ("user", user), ("path", path), ("repo", repo)):
        if value is not None and (not isinstance(value, str) or not value or value.startswith("-")):
            raise ConfigError(f"[pools.{name}]: {key} must be a string and not start with '-'")
    if port is not None and (not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536):
        raise ConfigError(f"[pools.{name}]: port must be a number from 1 to 65535")
    _check_the_rest(name, profile)
    return SshTarget(name, host or name, user, port, path, repo, profile.get("tunnel", False))


def _check_the_rest(name: str, profile: Mapping[str, Any]) -> None:
    """What others read of the profile, refused here, where every command passes."""
    labels, mac = (profile.get(key) for key in ("labels", "mac"))
    if labels is not None and not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise ConfigError(f"[pools.{name}]: labels must be a list of strings")
    if mac is not None and not (isinstance(mac, str) and _MAC.fullmatch(mac)):
        raise ConfigError(f"[pools.{name}]: mac must be six pairs of hex digits, like 52:54:00:ab:cd:ef")
    tunnel = profile.get("tunnel", False)
    if not isinstance(tunnel, bool):
        raise ConfigError(f"[pools.{name}]: tunnel must be true or false")
    if tunnel and not TUNNEL_NAME.fullmatch(name):
        raise ConfigError(f"[pools.{name}]: a pool with a tunnel needs a name of letters, digits and -, 63 at most")
    memory_limit_bytes(name, profile)


def memory_limit_bytes(name: str, profile: Mapping[str, Any]) -> int | None:
    """Main memory that workers of this pool may take together; None: all there is. Raises ConfigError."""
    limits = profile.get("limits", {})
    if not isinstance(limits, Mapping):
        raise ConfigError(f"[pools.{name}]: limits must be a section: [pools.{name}.limits]")
    unknown = [key for key in limits if key != "memory_mib"]
    if unknown:
        raise ConfigError(f"[pools.{name}.limits]: unknown key '{unknown[0]}'; there is memory_mib")
    if (mib := limits.get("memory_mib")) is None:
        return None
    if not isinstance(mib, int) or isinstance(mib, bool) or not 0 < mib <= _MEMORY_MIB_MAX:
        raise ConfigError(f"[pools.{name}.limits]: memory_mib must be a number from 1 to {_MEMORY_MIB_MAX}")
    return mib * _MIB
