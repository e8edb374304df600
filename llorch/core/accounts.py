"""The books on tenants: what each may take, has running, has reserved for live jobs, and took today."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import NamedTuple

from llorch.base.ids import TenantId
from llorch.core.learned import Mean
from llorch.core.tenant import DAY_S, TenantLimits, UsageRecord

LEVEL_SLACK = 1e-9  # sums of fractions of a request may come out a little short


class TenantUsage(NamedTuple):
    """What a tenant took today (UTC), and has now; `reserved` are tokens its live jobs may still need."""

    today: UsageRecord
    limits: TenantLimits
    running: int
    waiting: int
    reserved: int


class RateGate:
    """Requests a second, as a bucket of at most max(1, rate, rounded up) requests that fills by `rate` a second."""

    __slots__ = ("_at", "_level")

    def __init__(self) -> None:
        self._level: float | None = None
        self._at = 0.0

    def take(self, rate_per_s: float, now: float) -> float:
        """0.0 and one request less when there is one; else the seconds until there will be."""
        most = float(max(1, ceil(rate_per_s)))
        level = most if self._level is None else min(most, self._level + (now - self._at) * rate_per_s)
        taken = level >= 1 - LEVEL_SLACK
        self._level, self._at = level - taken, now
        return 0.0 if taken else (1 - level) / rate_per_s


class Account:
    """One tenant's dealings. `live` counts its jobs that have not ended, those at the door included; `pencilled` those
    that wait for the script's word on their worker."""

    __slots__ = ("gate", "limits", "live", "pencilled", "reserved", "running", "tenant", "tokens_out", "usage")

    def __init__(self, tenant: TenantId, limits: TenantLimits) -> None:
        self.tenant = tenant
        self.limits = limits
        self.live = 0
        self.running = 0
        self.pencilled = 0
        self.reserved = 0
        self.gate = RateGate()
        self.tokens_out = Mean()
        self.usage = UsageRecord(tenant, 0)

    @property
    def waiting(self) -> int:
        return self.live - self.running

    @property
    def at_limit(self) -> bool:
        """As many jobs are running as may."""
        return self.limits.running_max is not None and self.running >= self.limits.running_max

    def today(self, now: float) -> UsageRecord:
        """What it took on the current day."""
        day = int(now // DAY_S)
        if self.usage.day < day:
            self.usage = UsageRecord(self.tenant, day)
        return self.usage


class Accounts:
    """All tenants that are configured or were ever seen."""

    def __init__(self) -> None:
        self._of: dict[TenantId, Account] = {}
        self._limits: Mapping[TenantId, TenantLimits] = {}
        self._default = TenantLimits()

    def of(self, tenant: TenantId) -> Account:
        known = self._of.get(tenant)
        if known is None:
            known = self._of[tenant] = Account(tenant, self._limits.get(tenant, self._default))
        return known

    def read(self, limits: Mapping[TenantId, TenantLimits], default: TenantLimits) -> list[Account]:
        """New limits for all; answers with every account."""
        self._limits, self._default = dict(limits), default
        for tenant in limits:
            self.of(tenant)
        for account in self._of.values():
            account.limits = self._limits.get(account.tenant, default)
        return list(self._of.values())

    def names(self) -> tuple[TenantId, ...]:
        return tuple(sorted(self._of))

    def usage(self, tenant: TenantId, now: float) -> TenantUsage:
        """Of an unknown tenant: nothing, under the default limits."""
        account = self._of.get(tenant) or Account(tenant, self._limits.get(tenant, self._default))
        return TenantUsage(account.today(now), account.limits, account.running, account.waiting, account.reserved)
