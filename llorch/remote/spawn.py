"""What `worker spawn` over SSH needs besides its words: the worker token and a callback URL, handed over on stdin.

The worker binds to the address that the SSH session reached; it calls back to the orchestrator, whose loopback URL
means our end of the session.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from llorch.base import callback, worker_token
from llorch.base.addresses import is_loopback
from llorch.base.commands import Parser
from llorch.base.config import state_dir
from llorch.client.endpoint import parse
from llorch.remote import orchestrator, terminal

_INSECURE, _CALLBACK, _BIND = "--insecure-lan", "--callback-url", "--bind"
_LEAVES = (["worker", "spawn"], ["workers", "spawn"])


@dataclass(frozen=True, slots=True)
class Spawning:
    """What is the same for every host. `token` is None with --insecure-lan; `callback_url` and `bind` were typed."""

    words: tuple[str, ...]
    token: str | None
    orchestrator_url: str
    callback_url: str | None
    bind: str | None

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


def prepare(words: Sequence[str], env: Mapping[str, str]) -> Spawning | None:
    """What to hand over when `words` spawn a worker, else None; says what the operator should know.

    The token is created when there is none. Raises LlorchError.
    """
    if list(words[:2]) not in _LEAVES or any(word in ("-h", "--help") for word in words):
        return None
    parser = Parser(prog="llorch pool worker spawn", add_help=False, allow_abbrev=False)
    parser.add_argument(_INSECURE, action="store_true")
    parser.add_argument(_CALLBACK)
    parser.add_argument(_BIND)
    ours, rest = parser.parse_known_args(list(words))
    if ours.insecure_lan:
        terminal.tell("WARNING: --insecure-lan: anybody who reaches the worker's port can use it; no token guards it")
    url = orchestrator.find_url(env)
    if ours.callback_url is None and is_loopback(parse(url).host):
        _warn_of_loopback(env)
    return Spawning(
        words=(*rest, callback.STDIN_FLAG),
        token=None if ours.insecure_lan else worker_token.find_or_create(env),
        orchestrator_url=url if "://" in url else f"http://{url}",
        callback_url=ours.callback_url,
        bind=ours.bind,
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
