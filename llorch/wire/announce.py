"""How a worker announces itself and renews its lease."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from llorch.base import ids
from llorch.wire.fields import Fields, Unknown
from llorch.wire.prefix import DIGEST

PREFIXES_MAX = 64
HEARTBEAT_S = 1.0
LEASE_S = 5.0


@dataclass(frozen=True, slots=True)
class Announcement:
    """`POST /v2/workers/ready`: who I am, where I listen, what I serve."""

    worker_id: str
    url: str
    model: str
    backend: str
    slots_total: int
    context_length: int
    vram_bytes: int
    protocol: int
    version: str
    capabilities: dict[str, Any]

    def to_body(self) -> dict[str, Any]:
        """The JSON body."""
        return {
            "worker_id": self.worker_id,
            "url": self.url,
            "model": self.model,
            "backend": self.backend,
            "slots_total": self.slots_total,
            "context_length": self.context_length,
            "vram_bytes": self.vram_bytes,
            "protocol": self.protocol,
            "version": self.version,
            "capabilities": self.capabilities,
        }


def parse_announcement(body: dict[str, Any]) -> Announcement:
    """Check a ready message. Unknown fields are ignored, so that a newer worker may say more. Raises InvalidRequest."""
    fields = Fields(body, (), Unknown.IGNORE)
    for name in ("worker_id", "url", "model", "slots_total", "context_length", "protocol"):
        if not fields.has(name):
            fields.problem(name, "is required")
    capabilities = fields.raw("capabilities")
    announcement = Announcement(
        worker_id=fields.pattern("worker_id", ids.WORKER_ID) or "",
        url=read_worker_url(fields, "url"),
        model=fields.pattern("model", ids.MODEL_ID) or "",
        backend=fields.text("backend", size_max=64) or "cpu",
        slots_total=fields.integer("slots_total", 1, 100_000) or 1,
        context_length=fields.integer("context_length", 1, 1 << 31) or 1,
        vram_bytes=fields.integer("vram_bytes", 0, 1 << 60) or 0,
        protocol=fields.integer("protocol", 0, 1 << 31) or 0,
        version=fields.text("version", size_max=64) or "",
        capabilities=capabilities if isinstance(capabilities, dict) else {},
    )
    fields.done()
    return announcement


def read_worker_url(fields: Fields, name: str) -> str:
    """An http(s) URL of scheme, host and port only; problems are noted in `fields`."""
    value = fields.text(name, size_max=512)
    if value is None:
        return ""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    plain = not (parts.username or parts.password or parts.query or parts.fragment or parts.path.strip("/"))
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not plain:
        fields.problem(name, "must be http://HOST:PORT")
        return ""
    return value.rstrip("/")


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """`POST /v2/workers/{id}/heartbeat`: the lease renewed, with the facts placement wants.

    `prefixes` are digests (see prefix) of beginnings whose keys and values are still in the worker's cache.
    """

    slots_busy: int
    slots_total: int
    tokens_per_s: float
    state: str
    vram_bytes: int
    live_jobs: tuple[str, ...]
    prefixes: tuple[str, ...] = ()

    def to_body(self) -> dict[str, Any]:
        """The JSON body."""
        return {
            "slots_busy": self.slots_busy,
            "slots_total": self.slots_total,
            "tokens_per_s": self.tokens_per_s,
            "state": self.state,
            "vram_bytes": self.vram_bytes,
            "live_jobs": list(self.live_jobs),
            "prefixes": list(self.prefixes),
        }


def parse_heartbeat(body: dict[str, Any]) -> Heartbeat:
    """Check a heartbeat; every field has a default, so that an empty body renews the lease too."""
    fields = Fields(body, (), Unknown.IGNORE)
    heartbeat = Heartbeat(
        slots_busy=fields.integer("slots_busy", 0, 100_000) or 0,
        slots_total=fields.integer("slots_total", 1, 100_000) or 1,
        tokens_per_s=fields.number("tokens_per_s", 0.0, 1e9) or 0.0,
        state=fields.choice("state", ("ready", "draining")) or "ready",
        vram_bytes=fields.integer("vram_bytes", 0, 1 << 60) or 0,
        live_jobs=fields.texts("live_jobs", count_max=100_000),
        prefixes=_read_prefixes(fields.raw("prefixes")),
    )
    fields.done()
    return heartbeat


def _read_prefixes(value: object) -> tuple[str, ...]:
    """Digests; anything else is as if nothing was said: a hint must not cost a worker its lease."""
    if not isinstance(value, list) or len(value) > PREFIXES_MAX:
        return ()
    digests = tuple(item for item in value if isinstance(item, str) and DIGEST.fullmatch(item))
    return digests if len(digests) == len(value) else ()
