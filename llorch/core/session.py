"""A session: a line of a client's jobs that belong together, with limits of its own. Metadata only, never text."""

from __future__ import annotations

from dataclasses import dataclass

from llorch.base.ids import SessionId, TenantId

SESSION_TTL_S = 3600.0


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """`ttl_s` counts from the last use. The budgets bound what all its jobs take together; None: no bound.

    `tokens_max` counts prompt and generated tokens, `time_max_s` seconds of decoding.
    """

    ttl_s: float = SESSION_TTL_S
    tokens_max: int | None = None
    time_max_s: float | None = None


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A declared session as it is stored and listed; `turns` counts its jobs that ended with a result."""

    session_id: SessionId
    tenant: TenantId
    limits: SessionLimits
    opened_at: float
    used_at: float
    turns: int = 0
    tokens_used: int = 0
    time_used_s: float = 0.0
