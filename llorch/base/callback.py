"""The line that a spawned worker's llorch-pool reads from stdin: a secret, and how the two sides reach each other."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from llorch.base.addresses import is_loopback, netloc

STDIN_FLAG = "--remote-stdin"


# A callback URL for a worker that shall announce itself nowhere: it is asked how it is.
NOBODY = "none"
LOOPBACK = "127.0.0.1"


def url_for(orchestrator_url: str, local: str | None, server: str) -> str | None:
    """The orchestrator as the pool at `server` reaches it, over our end `local` if it is on loopback; None: unknown."""
    parts = urlsplit(orchestrator_url)
    if not is_loopback(parts.hostname or "") or is_loopback(server):
        return orchestrator_url
    return None if local is None else parts._replace(netloc=netloc(local, parts.port)).geturl()


def stdin_line(token: str | None, callback_url: str | None, bind: str) -> bytes:
    """See llorch/pool/handover.py, which reads it. Without a token the worker asks for none."""
    body = {"worker_token": token, "callback_url": callback_url, "bind": bind, "insecure_lan": token is None}
    return json.dumps(body).encode() + b"\n"
