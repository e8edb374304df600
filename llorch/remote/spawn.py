"""What `worker spawn` over SSH needs besides its words: the worker token and a callback URL, handed over on stdin.

The worker binds to the address that the SSH session reached; it calls back to the orchestrator, whose loopback URL
means our end of the session.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from llorch.base import callback, ids, worker_token
from llorch.base.addresses import is_loopback
from llorch.base.commands import Parser
from llorch.base.config import state_dir
from llorch.base.errors import HostError, PoolUnavailable, UsageError
from llorch.client.endpoint import parse, read_key
from llorch.client.sync import Client
from llorch.remote import orchestrator, terminal

_INSECURE, _CALLBACK, _BIND, _TUNNEL = "--insecure-lan", "--callback-url", "--bind", "--tunnel"
_NAMED = "--worker-id"
_BACKENDS = ("cpu", "cuda", "metal")
_LEAVES = (["worker", "spawn"], ["workers", "spawn"])


@dataclass(frozen=True, slots=True)
class Spawning:
    """What is the same for every host. `token` is None with --insecure-lan; `callback_url` and `bind` were typed."""

    words: tuple[str, ...]
    token: str | None
    orchestrator_url: str
    callback_url: str | None
    bind: str | None
    tunnel: bool = False

    def stdin_line(self, local: str | None, server: str) -> bytes:
        """The line for a session between our address `local` (None: unknown) and the pool's `server`."""
        callback_url = self.callback_url or self._callback(local, server)
        return callback.stdin_line(self.token, callback_url, self.bind or server)

    def _callback(self, local: str | None, server: str) -> str | None:
        """The orchestrator as the pool reaches it."""
        found = callback.url_for(self.orchestrator_url, local, server)
        if found is None:
            terminal.tell(f"the pool does not see this machine's address: name the orchestrator with {_CALLBACK} URL")
        return found


@dataclass(frozen=True, slots=True)
class Tunnelled:
    """One worker that stays on the loopback of its pool: what its spawn needs, and who has to know of it then."""

    words: tuple[str, ...]
    stdin: bytes
    worker_id: str
    pool: str

    def list_words(self) -> list[str]:
        """What tells its port, once it runs."""
        return ["worker", "list", "--json"]

    def tell_orchestrator(self, listed: str) -> None:
        """Have orchestratord use it from now on. Raises LlorchError."""
        try:
            rows = json.loads(listed)["workers"]
            port = next(int(row["port"]) for row in rows if row["worker_id"] == self.worker_id)
        except (ValueError, KeyError, TypeError, StopIteration):
            raise HostError(f"{self.pool}: 'worker list' there does not show {self.worker_id}") from None
        _client(os.environ).add_worker(f"http://{callback.LOOPBACK}:{port}", pool=self.pool)
        terminal.tell(f"{self.worker_id} stays on the loopback of {self.pool}; orchestratord reaches it by its tunnel")


def tunnelled(spawning: Spawning, pool: str) -> Tunnelled:
    """What a spawn on this pool needs. Raises UsageError, PoolUnavailable while orchestratord has no tunnel there."""
    for given, flag in ((spawning.callback_url, _CALLBACK), (spawning.bind, _BIND), (not spawning.token, _INSECURE)):
        if given:
            raise UsageError(f"{pool}: {flag} does not go with a tunnel: such a worker stays on its loopback")
    if "--no-wait" in spawning.words:
        raise UsageError(f"{pool}: --no-wait does not go with a tunnel: orchestratord is told when the worker is ready")
    client = _client(os.environ)
    rows = [row for row in client.pools().get("pools", []) if row.get("id") == pool.lower() and row.get("tunnel")]
    if not rows:
        raise UsageError(
            f"{pool}: orchestratord at {client.url} has no tunnel there: set tunnel = true in [pools.{pool}] of its "
            "llorch.toml (llorch pool register --tunnel)"
        )
    if not rows[0]["tunnel"].get("open"):
        raise PoolUnavailable(str(rows[0]["tunnel"].get("error") or f"{pool}: the tunnel is being opened; try again"))
    backend = next((word for word in spawning.words if word in _BACKENDS), _BACKENDS[0])
    worker_id = _named(spawning.words) or ids.new_worker_id(backend)
    words = spawning.words if _named(spawning.words) else (*spawning.words, _NAMED, worker_id)
    line = callback.stdin_line(spawning.token, callback.NOBODY, callback.LOOPBACK)
    return Tunnelled(words, line, worker_id, pool.lower())


def _named(words: Sequence[str]) -> str | None:
    parser = Parser(prog="llorch pool worker spawn", add_help=False, allow_abbrev=False)
    parser.add_argument(_NAMED)
    found: str | None = parser.parse_known_args(list(words))[0].worker_id
    return found


def _client(env: Mapping[str, str]) -> Client:
    return Client(orchestrator.find_url(env), key=read_key(env))


def prepare(words: Sequence[str], env: Mapping[str, str], *, all_tunnelled: bool = False) -> Spawning | None:
    """What to hand over when `words` spawn a worker, else None; says what the operator should know.

    `all_tunnelled`: every host has a tunnel. The token is created when there is none. Raises LlorchError.
    """
    if list(words[:2]) not in _LEAVES or any(word in ("-h", "--help") for word in words):
        return None
    parser = Parser(prog="llorch pool worker spawn", add_help=False, allow_abbrev=False)
    parser.add_argument(_INSECURE, action="store_true")
    parser.add_argument(_CALLBACK)
    parser.add_argument(_BIND)
    parser.add_argument(_TUNNEL, action="store_true")
    ours, rest = parser.parse_known_args(list(words))
    if ours.insecure_lan:
        terminal.tell("WARNING: --insecure-lan: anybody who reaches the worker's port can use it; no token guards it")
    url = orchestrator.find_url(env)
    if ours.callback_url is None and not (ours.tunnel or all_tunnelled) and is_loopback(parse(url).host):
        _warn_of_loopback(env)
    return Spawning(
        words=(*rest, callback.STDIN_FLAG),
        token=None if ours.insecure_lan else worker_token.find_or_create(env),
        orchestrator_url=url if "://" in url else f"http://{url}",
        callback_url=ours.callback_url,
        bind=ours.bind,
        tunnel=ours.tunnel,
    )


def _warn_of_loopback(env: Mapping[str, str]) -> None:
    """An orchestratord of ours that listens on loopback only cannot be called back from another machine."""
    try:
        facts = json.loads((Path(state_dir(env)) / "orchestratord.json").read_text(encoding="utf-8"))
        host = urlsplit(str(facts["url"])).hostname or ""
    except (OSError, ValueError, KeyError, TypeError):
        return  # none runs here, or none that says so
    if is_loopback(host):
        terminal.tell(
            "orchestratord here listens on loopback only: workers of other machines cannot reach it (see --bind)"
        )
