"""Whose turn it is: tiers, and inside a tier the tenant and the session that got the fewest generated tokens.

Each tenant, and each session inside its tenant, has a virtual counter of generated tokens (a tenant's divided by its
weight); the lowest goes next. Who comes back from having nothing waiting is lifted to the lowest of those that wait, so
idleness earns no credit. Source: virtual token counter, "Fairness in Serving Large Language Models", Sheng et al. 2024.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

from llorch.base.ids import JobId, SessionId, TenantId
from llorch.core.sorted_keys import SortedKeys


class Tier(IntEnum):
    """The first word in the order of waiting. FIRST knows no fairness: these were at work already."""

    FIRST = 0  # broken off or restarted
    URGENT = 1  # preferred by policy
    NORMAL = 2
    BACKGROUND = 3  # handicapped, until the handicap is waited off


class QueueKey(NamedTuple):
    """A job's place in its own session: by tier, then by handicapped time of acceptance, then by arrival."""

    tier: Tier
    since: float
    sequence: int
    job_id: JobId


class Turn(NamedTuple):
    """The order of waiting across all; the smallest is next. Counters are virtual tokens at this moment."""

    tier: Tier
    tenant_counter: float
    session_counter: float
    key: QueueKey


class Flow(NamedTuple):
    """Whom a job's tokens are counted for. Jobs of a tenant without a session form one session."""

    tenant: TenantId
    session: SessionId | None


class SessionShare:
    """What one session has got, in tokens. `live`: its jobs that have not ended."""

    __slots__ = ("counter", "live", "waiting")

    def __init__(self) -> None:
        self.counter = 0.0
        self.live = 0
        self.waiting = 0


class Share:
    """What one tenant has got, in tokens by weight, and the lines it stands in. A parked one is not offered."""

    __slots__ = ("counter", "last_session", "lines", "parked", "sessions", "tenant", "waiting", "weight")

    def __init__(self, tenant: TenantId) -> None:
        self.tenant = tenant
        self.weight = 1.0
        self.counter = 0.0
        self.parked = False
        self.waiting = 0
        self.lines: dict[Line, None] = {}
        self.sessions: dict[SessionId | None, SessionShare] = {}
        self.last_session: SessionShare | None = None

    def session(self, name: SessionId | None) -> SessionShare:
        known = self.sessions.get(name)
        if known is None:
            known = self.sessions[name] = SessionShare()
        return known


class _SessionLine:
    __slots__ = ("head", "keys")

    def __init__(self, head: tuple[float, QueueKey]) -> None:
        self.head = head
        self.keys: SortedKeys[QueueKey] = SortedKeys()
        self.keys.add(head[1])


class _TenantLine:
    __slots__ = ("order", "sessions", "turn")

    def __init__(self) -> None:
        self.sessions: dict[SessionId | None, _SessionLine] = {}
        self.order: SortedKeys[tuple[float, QueueKey]] = SortedKeys()
        self.turn: Turn | None = None


class Line:
    """Jobs of one tier that compete for the same: the first is known at once, with any number of flows.

    Each session's jobs stand in order; a tenant's sessions stand in the order of their first jobs, and so do tenants.
    """

    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self._tenants: dict[TenantId, _TenantLine] = {}
        self._order: SortedKeys[Turn] = SortedKeys()

    def first(self) -> Turn | None:
        """Who is next; None when nobody is, or all that stand here are parked."""
        return self._order.first() if self._order else None

    def __iter__(self) -> Iterator[QueueKey]:
        for tenant in self._tenants.values():
            for session in tenant.sessions.values():
                yield from session.keys

    def add(self, share: Share, session: SessionId | None, key: QueueKey) -> None:
        tenant = self._tenants.get(share.tenant)
        if tenant is None:
            tenant = self._tenants[share.tenant] = _TenantLine()
            share.lines[self] = None
        standing = tenant.sessions.get(session)
        if standing is None:
            head = (share.session(session).counter, key)
            tenant.sessions[session] = _SessionLine(head)
            tenant.order.add(head)
        else:
            standing.keys.add(key)
            if standing.head[1] < key:
                return
            self._lead(tenant, standing, (standing.head[0], key))
        self._reseat(share, tenant)

    def remove(self, share: Share, session: SessionId | None, key: QueueKey) -> None:
        """Take the job out; it must be there."""
        tenant = self._tenants[share.tenant]
        standing = tenant.sessions[session]
        standing.keys.remove(key)
        if standing.keys:
            if standing.head[1] != key:
                return
            self._lead(tenant, standing, (standing.head[0], standing.keys.first()))
        else:
            tenant.order.remove(standing.head)
            del tenant.sessions[session]
        self._reseat(share, tenant)
        if not tenant.order:
            del self._tenants[share.tenant], share.lines[self]

    def recount(self, share: Share, session: SessionId | None) -> None:
        """The counters of a tenant that stands here, and of one of its sessions, have changed."""
        tenant = self._tenants[share.tenant]
        standing = tenant.sessions.get(session)
        if standing is not None:
            self._lead(tenant, standing, (share.session(session).counter, standing.head[1]))
        self._reseat(share, tenant)

    def reseat(self, share: Share) -> None:
        """The tenant, who stands here, was parked or is not any more."""
        self._reseat(share, self._tenants[share.tenant])

    def lowest_session(self, tenant: TenantId) -> float | None:
        """The lowest counter among the tenant's sessions here."""
        standing = self._tenants.get(tenant)
        return None if standing is None else standing.order.first()[0]

    def head_of(self, tenant: TenantId) -> QueueKey:
        """The job of this tenant, which must stand here, that is next among its own."""
        return self._tenants[tenant].order.first()[1]

    def jobs_before(self, flow: Flow, key: QueueKey) -> int:
        """How many jobs of the same session stand before this key."""
        standing = self._session(flow)
        return 0 if standing is None else standing.keys.rank(key)

    def sessions_before(self, flow: Flow, head: tuple[float, QueueKey]) -> int:
        """How many other sessions of the tenant would be next before a job with this counter and key."""
        tenant, own = self._tenants.get(flow.tenant), self._session(flow)
        if tenant is None:
            return 0
        return tenant.order.rank(head) - (own is not None and own.head < head)

    def tenants_before(self, tenant: TenantId, turn: Turn) -> int:
        """How many other tenants would be next before this turn; parked ones are not."""
        own = self._tenants.get(tenant)
        mine = own is not None and own.turn is not None and own.turn < turn
        return self._order.rank(turn) - mine

    def _session(self, flow: Flow) -> _SessionLine | None:
        tenant = self._tenants.get(flow.tenant)
        return None if tenant is None else tenant.sessions.get(flow.session)

    @staticmethod
    def _lead(tenant: _TenantLine, standing: _SessionLine, head: tuple[float, QueueKey]) -> None:
        tenant.order.move(standing.head, head)
        standing.head = head

    def _reseat(self, share: Share, tenant: _TenantLine) -> None:
        before = tenant.turn
        offered = tenant.order and not share.parked
        turn = Turn(self.tier, share.counter, *tenant.order.first()) if offered else None
        if turn is None:
            if before is not None:
                self._order.remove(before)
        elif before is None:
            self._order.add(turn)
        elif turn != before:
            self._order.move(before, turn)
        tenant.turn = turn


class Shares:
    """The counters of all tenants and sessions. All costs are those of the lines a tenant stands in."""

    def __init__(self) -> None:
        self._of: dict[TenantId, Share] = {}
        self._last: Share | None = None
        self.everybody = Share(TenantId(""))  # stands for all in lines that know no fairness

    def of(self, tenant: TenantId) -> Share:
        known = self._of.get(tenant)
        if known is None:
            known = self._of[tenant] = Share(tenant)
        return known

    def enter(self, flow: Flow) -> None:
        """A job of this flow is live from now on."""
        self.of(flow.tenant).session(flow.session).live += 1

    def leave(self, flow: Flow) -> None:
        """A job of this flow has ended. A session without live jobs is not remembered."""
        share = self.of(flow.tenant)
        session = share.session(flow.session)
        session.live -= 1
        if session.live <= 0 and not session.waiting:
            del share.sessions[flow.session]

    def live(self, flow: Flow) -> int:
        """How many jobs of this flow have not ended."""
        session = self.of(flow.tenant).sessions.get(flow.session)
        return 0 if session is None else session.live

    def arrive(self, flow: Flow, rivals: Iterable[Line]) -> None:
        """A job of the flow begins to wait beside those in these lines: lift who had nothing waiting."""
        share = self.of(flow.tenant)
        session = share.session(flow.session)
        share.counter, session.counter = self.on_arrival(flow, rivals)
        share.waiting += 1
        session.waiting += 1

    def on_arrival(self, flow: Flow, rivals: Iterable[Line]) -> tuple[float, float]:
        """The counters of the tenant and the session as they would be if a job of theirs came now."""
        share = self.of(flow.tenant)
        session = share.sessions.get(flow.session) or SessionShare()
        tenants, sessions = share.counter, session.counter
        if not share.waiting:
            lows = [turn.tenant_counter for line in rivals if (turn := line.first()) is not None]
            last = 0.0 if self._last is None else self._last.counter
            tenants = max(tenants, min(lows, default=last))
        if not session.waiting:
            counters = [low for line in rivals if (low := line.lowest_session(flow.tenant)) is not None]
            last = 0.0 if share.last_session is None else share.last_session.counter
            sessions = max(sessions, min(counters, default=last))
        return tenants, sessions

    def depart(self, flow: Flow) -> None:
        """A job of the flow waits no more."""
        share = self.of(flow.tenant)
        session = share.session(flow.session)
        share.waiting -= 1
        session.waiting -= 1
        if not share.waiting:
            self._last = share
        if not session.waiting:
            share.last_session = session
            if session.live <= 0:
                del share.sessions[flow.session]

    def charge(self, flow: Flow, tokens: float) -> None:
        """The flow got so many generated tokens, or (below 0) was charged too many before."""
        share = self.of(flow.tenant)
        share.counter += tokens / share.weight
        share.session(flow.session).counter += tokens
        for line in share.lines:
            line.recount(share, flow.session)

    def park(self, share: Share) -> None:
        """Offer nothing of this tenant, except what is FIRST."""
        share.parked = True
        for line in share.lines:
            line.reseat(share)

    def unpark(self, share: Share) -> None:
        """The tenant competes again, as one that comes back."""
        lows = [turn.tenant_counter for line in share.lines if (turn := line.first()) is not None]
        share.counter = max(share.counter, min(lows, default=share.counter))
        share.parked = False
        for line in share.lines:
            line.reseat(share)
