"""The body of `POST /v2/sessions`: every field checked once, all problems reported together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llorch.base import ids
from llorch.wire.fields import Fields

TTL_S_MAX = 30 * 86_400.0
TOKENS_MAX_MAX = 10**12
TIME_S_MAX = 1e9
FIELDS = ("session_id", "ttl_s", "tokens_max", "time_max_s")


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """A checked body. `ttl_s` counts from the last use; None: the server's own, and no bound for the budgets."""

    session_id: str | None = None
    ttl_s: float | None = None
    tokens_max: int | None = None
    time_max_s: float | None = None

    def to_body(self) -> dict[str, Any]:
        """The fields that were given."""
        return {name: value for name in FIELDS if (value := getattr(self, name)) is not None}


def parse_session(body: dict[str, Any]) -> SessionRequest:
    """Check a body. Raises InvalidRequest with every problem in its details."""
    fields = Fields(body, FIELDS)
    request = SessionRequest(
        session_id=fields.pattern("session_id", ids.SESSION_ID),
        ttl_s=fields.number("ttl_s", 1, TTL_S_MAX),
        tokens_max=fields.integer("tokens_max", 1, TOKENS_MAX_MAX),
        time_max_s=fields.number("time_max_s", 0.001, TIME_S_MAX),
    )
    fields.done()
    return request
