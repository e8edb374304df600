"""Who may talk to this worker: loopback by default, the cluster's worker token elsewhere, or a loud opt-out."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llorch.base import worker_token
from llorch.base.errors import ConfigError, Unauthorized
from llorch.web.sockets import stays_local


@dataclass(frozen=True, slots=True)
class Tokens:
    """`guard` is asked of callers (None: no guard); `announce` is shown to the orchestrator (None: nothing to show)."""

    guard: str | None
    announce: str | None


def find_tokens(env: Mapping[str, str], *, bind: str, token_file: Path | None, insecure_lan: bool) -> Tokens:
    """The tokens of this worker, or a refusal to be open to the network without one.

    A named file (flag or environment) guards every route; a token that merely lies in the state directory guards only
    a worker that is reachable from elsewhere. `insecure_lan` drops the guard. Raises ConfigError and HostError.
    """
    named = token_file is not None or bool(env.get(worker_token.FILE_ENV))
    token = worker_token.read(token_file) if token_file is not None else worker_token.find(env)
    if insecure_lan:
        return Tokens(None, token)
    if stays_local(bind):
        return Tokens(token if named else None, token)
    if token is None:
        raise ConfigError(
            f"--bind {bind} opens this worker to the network: give --token-file FILE, or --insecure-lan for no token"
        )
    return Tokens(token, token)


def check_bearer(guard: str, authorization: str | None) -> None:
    """Raises Unauthorized unless the header carries the token; takes the same time whatever is wrong."""
    scheme, _, offered = (authorization or "").partition(" ")
    right = hmac.compare_digest(offered.strip().encode("utf-8", "surrogateescape"), guard.encode("ascii"))
    if scheme.lower() != "bearer" or not right:
        raise Unauthorized("the cluster's worker token is needed: send it as 'Authorization: Bearer TOKEN'")
