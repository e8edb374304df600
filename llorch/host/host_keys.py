"""Which host keys are trusted, and what is known of one that is not: always checked, never learned by itself.

The files are OpenSSH's: what ~/.ssh/config names, else ~/.ssh/known_hosts and the machine's own list.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncssh

_USERS = "~/.ssh/known_hosts"
_MACHINES = "/etc/ssh/ssh_known_hosts"


@dataclass(frozen=True, slots=True)
class SeenKey:
    """A host key that known_hosts does not hold for this host."""

    entry: str
    algorithm: str
    fingerprint: str
    is_changed: bool


def files(options: asyncssh.SSHClientConnectionOptions) -> list[str]:
    """The known_hosts files that can be read, the user's first; each set of them has its default of its own."""
    named: list[str] = []
    for word, default in (("UserKnownHostsFile", _USERS), ("GlobalKnownHostsFile", _MACHINES)):
        configured = options.config.get(word)
        named += configured if isinstance(configured, list) and configured else [default]
    places = [os.path.expanduser(name) for name in named]  # noqa: PTH111 - asyncssh resolves it this way, too
    return [place for place in places if os.access(place, os.R_OK)]


def witness(known: Sequence[str], seen: list[SeenKey]) -> asyncssh.SSHClient:
    """A client that refuses every key the files `known` do not hold, and notes it for the message."""
    import asyncssh

    class Witness(asyncssh.SSHClient):
        def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
            entry = host if port == 22 else f"[{host}]:{port}"
            is_known = bool(known) and bool(asyncssh.match_known_hosts(list(known), host, addr, port)[0])
            seen.append(SeenKey(entry, key.get_algorithm(), key.get_fingerprint(), is_known))
            return False

    return Witness()
