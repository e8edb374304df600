"""What `llorch pool worker spawn … --host` hands over on stdin: one JSON line, announced by `--remote-stdin`.

Secrets must not stand in an argv that every user of the pool can read, so the caller writes, before anything else, one
line of at most 64 KiB and then closes or leaves stdin:

    {"worker_token": "…", "callback_url": "http://10.0.0.5:8080", "bind": "10.0.0.7", "insecure_lan": false}

- `worker_token`  the cluster's token; written 0600 beside the record and given to the worker as a file. null: none.
- `callback_url`  where the worker announces itself, reachable from here; "none": nowhere. null: it looks for itself.
- `bind`          the address of this host that the caller reached. null: loopback.
- `insecure_lan`  true: the worker listens on `bind` without a token.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import BinaryIO

from llorch.base import callback
from llorch.base.errors import LlorchError, UsageError
from llorch.wire import strict_json
from llorch.wire.fields import Fields

SIZE_MAX = 64 << 10
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Handover:
    """How a worker is reachable, and by whom. Empty strings: not given."""

    worker_token: str = ""
    callback_url: str = ""
    bind: str = LOOPBACK
    insecure_lan: bool = False


def read(stream: BinaryIO | None = None) -> Handover:
    """The handed-over line from stdin. Raises UsageError, without echoing it, when it is not as above."""
    line = (stream or sys.stdin.buffer).readline(SIZE_MAX + 1)
    if len(line) > SIZE_MAX:
        raise UsageError("--remote-stdin: the line is too long")
    try:
        return parse(line)
    except LlorchError as error:
        raise UsageError(f"--remote-stdin: {error.message}") from None


def parse(line: bytes) -> Handover:
    """Check the line; problems name the field, never its value."""
    fields = Fields(strict_json.parse_object(line), ("worker_token", "callback_url", "bind", "insecure_lan"))
    token = fields.text("worker_token", size_max=1024) or ""
    if not token.isprintable() or " " in token:
        fields.problem("worker_token", "must be printable without spaces")
    callback_url = fields.text("callback_url", size_max=1024) or ""
    if callback_url and callback_url != callback.NOBODY and not callback_url.startswith(("http://", "https://")):
        fields.problem("callback_url", "must be an http or https URL")
    bind = fields.text("bind", size_max=64) or LOOPBACK
    if not _is_address(bind):
        fields.problem("bind", "must be an IP address")
    insecure_lan = fields.switch("insecure_lan")
    fields.done()
    return Handover(token, callback_url, bind, insecure_lan)


def _is_address(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
