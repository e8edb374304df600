"""Who may talk to this worker: loopback by default, the cluster's worker token elsewhere, or a loud opt-out."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llorch.base.config import state_dir
from llorch.base.errors import ConfigError, HostError, Unauthorized

TOKEN_SIZE_MAX = 4096
TOKEN_FILE_ENV = "LLORCH_WORKER_TOKEN_FILE"
TOKEN_FILE_NAME = "worker-token"


@dataclass(frozen=True, slots=True)
class Tokens:
    """`guard` is asked of callers (None: no guard); `announce` is shown to the orchestrator (None: nothing to show)."""

    guard: str | None
    announce: str | None


def read_token(path: Path) -> str:
    """The token in a file. Raises HostError when there is none."""
    try:
        token = path.read_text(encoding="ascii").strip() if path.stat().st_size <= TOKEN_SIZE_MAX else ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not ASCII text"
        raise HostError(f"worker token file {path}: {reason}") from None
    if not token or any(c.isspace() for c in token):
        raise HostError(f"worker token file {path} does not hold one token")
    return token


def is_loopback(bind: str) -> bool:
    """True when every address that `bind` means is a loopback address. Raises HostError for an unknown name."""
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses_of(bind))


def addresses_of(bind: str) -> list[str]:
    """The addresses a host name or literal stands for. Raises HostError."""
    try:
        found = socket.getaddrinfo(bind, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise HostError(f"--bind {bind}: not an address of this machine") from None
    return [str(row[4][0]) for row in found]


def find_tokens(env: Mapping[str, str], *, bind: str, token_file: Path | None, insecure_lan: bool) -> Tokens:
    """The tokens of this worker, or a refusal to be open to the network without one.

    A named file (flag or environment) guards every route; a token that merely lies in the state directory guards only
    a worker that is reachable from elsewhere. `insecure_lan` drops the guard. Raises ConfigError and HostError.
    """
    named = token_file or (Path(env[TOKEN_FILE_ENV]) if env.get(TOKEN_FILE_ENV) else None)
    lying = state_dir(env) / TOKEN_FILE_NAME
    path = named or (lying if lying.exists() else None)
    token = read_token(path) if path is not None else None
    if insecure_lan:
        return Tokens(None, token)
    if is_loopback(bind):
        return Tokens(token if named is not None else None, token)
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
