"""How many jobs go before one, assuming equal turns: counted for a whole crowd of flows without looking at each."""

from __future__ import annotations

from collections.abc import Sequence

from llorch.base.ids import SessionId, TenantId
from llorch.core.fairness import Flow, Line, QueueKey, Share, Tier, Turn
from llorch.core.sorted_keys import Crowd


class _Tenant:
    __slots__ = ("jobs", "sessions", "sizes")

    def __init__(self) -> None:
        self.jobs = 0
        self.sizes: dict[SessionId | None, int] = {}
        self.sessions = Crowd()


class CountedLine(Line):
    """A line that also knows how many jobs of each tenant and session stand in it."""

    def __init__(self, tier: Tier) -> None:
        super().__init__(tier)
        self._sizes: dict[TenantId, _Tenant] = {}
        self._crowd = Crowd()
        self._len = 0

    def __len__(self) -> int:
        return self._len

    def add(self, share: Share, session: SessionId | None, key: QueueKey) -> None:
        super().add(share, session, key)
        self._len += 1
        tenant = self._sizes.get(share.tenant)
        if tenant is None:
            tenant = self._sizes[share.tenant] = _Tenant()
        tenant.jobs += 1
        self._crowd.grew(tenant.jobs)
        tenant.sizes[session] = size = tenant.sizes.get(session, 0) + 1
        tenant.sessions.grew(size)

    def remove(self, share: Share, session: SessionId | None, key: QueueKey) -> None:
        super().remove(share, session, key)
        self._len -= 1
        tenant = self._sizes[share.tenant]
        self._crowd.shrank(tenant.jobs)
        tenant.jobs -= 1
        size = tenant.sizes[session]
        tenant.sessions.shrank(size)
        if size > 1:
            tenant.sizes[session] = size - 1
        else:
            del tenant.sizes[session]
        if not tenant.jobs:
            del self._sizes[share.tenant]

    def of_tenant(self, flow: Flow, turn: Turn, turns: int, own: int) -> int:
        """Jobs of the tenant that go first, when `turns` of its session do, `own` of them in this line."""
        tenant = self._sizes.get(flow.tenant)
        if tenant is None:
            return 0
        size = tenant.sizes.get(flow.session, 0)
        if size == tenant.jobs:  # nobody else to count
            return own
        others = tenant.sessions.turns(turns) - min(size, turns)
        rivals = tenant.sessions.at_least(turns + 1) - (size > turns)
        return own + others + min(rivals, self.sessions_before(flow, (turn.session_counter, turn.key)))

    def of_all(self, flow: Flow, turn: Turn, turns: int, own: int) -> int:
        """Jobs of anybody that go first, when `turns` of the tenant do, `own` of them in this line."""
        tenant = self._sizes.get(flow.tenant)
        size = 0 if tenant is None else tenant.jobs
        if size == self._len:  # nobody else to count
            return own
        others = self._crowd.turns(turns) - min(size, turns)
        rivals = self._crowd.at_least(turns + 1) - (size > turns)
        return own + others + min(rivals, self.tenants_before(flow.tenant, turn))


def ahead(lines: Sequence[CountedLine], flow: Flow, turn: Turn) -> int:
    """Jobs in these lines, all of the turn's tier, that go before it: exact for one flow, else an estimate.

    As if every tenant, and inside a tenant every session, had one turn each round: of others with n waiting jobs,
    min(n, own turns before this one) go first, and one more of those whose counter is lower. 0: nobody goes first.
    """
    jobs = [line.jobs_before(flow, turn.key) for line in lines]
    turns = sum(jobs)
    of_tenant = [line.of_tenant(flow, turn, turns, own) for line, own in zip(lines, jobs, strict=True)]
    turns = sum(of_tenant)
    return sum(line.of_all(flow, turn, turns, own) for line, own in zip(lines, of_tenant, strict=True))
