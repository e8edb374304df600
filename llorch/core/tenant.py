"""A tenant: whoever a client key belongs to, what it may take, and what it took."""

from __future__ import annotations

from dataclasses import dataclass

from llorch.base.ids import ModelId, TenantId

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What a tenant may take; None: no bound. `weight`: its share of generated tokens beside the others' weights.

    Of `running_max` jobs more wait in the queue; beyond `queued_max` waiting ones, or when the tokens of the day (UTC;
    prompt and generated, those that live jobs may still need included) are used up, jobs are refused.
    """

    weight: float = 1.0
    running_max: int | None = None
    queued_max: int | None = None
    tokens_per_day: int | None = None
    requests_per_s: float | None = None
    models: tuple[ModelId, ...] | None = None


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """What a tenant took on one day; `day` counts from the epoch, in UTC."""

    tenant: TenantId
    day: int
    jobs: int = 0
    prompt_tokens: int = 0
    tokens_out: int = 0
