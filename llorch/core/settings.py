"""What an operator may set about the brain; every bound it keeps is written here with its default."""

from __future__ import annotations

from dataclasses import dataclass

UNBOUNDED = -1
IDEMPOTENCY_KEYS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class BrainSettings:
    """Durations are seconds."""

    queue_capacity: int = 10_000
    lease_s: float = 5.0
    lost_worker_kept_s: float = 600.0
    queue_timeout_interactive_s: float | None = 600.0
    queue_timeout_batch_s: float | None = None
    first_token_timeout_s: float = 120.0
    stall_timeout_s: float = 30.0
    count_timeout_s: float = 5.0
    disconnect_grace_s: float = 0.0
    cancel_limit_s: float = 5.0
    attempts_max: int = 5
    backoff_first_s: float = 0.05
    backoff_max_s: float = 5.0
    busy_default_s: float = 1.0
    continue_wait_s: float = 10.0
    restart_wait_s: float = 60.0
    batch_ageing_s: float = 300.0
    ask_limit_s: float = 1.0
    stale_answers_max: int = 3
    declined_first_s: float = 1.0
    declined_max_s: float = 15.0
    announce_every_s: float = 1.0
    announce_batch: int = 500
    reasons_max: int = 8
    sessions_max: int = 10_000
    sessions_of_tenant_max: int = 1000  # nobody pushes out the sessions of others
    forecast_jobs_min: int = 5
    breaker_failures: int = 3
    breaker_first_s: float = 5.0
    breaker_max_s: float = 60.0
    retry_share: float = 0.2
    retry_floor: int = 10
    retry_window_s: float = 10.0
    idempotency_keys_max: int = IDEMPOTENCY_KEYS_MAX
