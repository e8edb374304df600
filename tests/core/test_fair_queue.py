"""The fair queue against a slow and obvious one: a plain list, searched from end to end."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from llorch.base.ids import JobId, ModelId, SessionId, TenantId, WorkerId
from llorch.core.fairness import Flow, QueueKey, Tier, Turn
from llorch.core.queue import Queue, Shape
from llorch.core.sorted_keys import Crowd

MODELS = [ModelId("a"), ModelId("b")]
WORKER = WorkerId("w")
TENANTS = [TenantId("t"), TenantId("u"), TenantId("v")]
FLOWS = [Flow(tenant, session) for tenant in TENANTS for session in (None, SessionId("s"), SessionId("r"))]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=200), st.integers(0, 60))
def test_a_crowd_counts_as_a_loop_would(steps: list[tuple[int, bool]], each: int) -> None:
    """How many counts are at least j, and the sum of min(count, k), whatever grew and shrank."""
    crowd, counts = Crowd(), [0] * 5
    for who, grows in steps:
        if grows:
            counts[who] += 1
            crowd.grew(counts[who])
        elif counts[who]:
            crowd.shrank(counts[who])
            counts[who] -= 1
    assert crowd.turns(each) == sum(min(count, each) for count in counts)
    assert crowd.at_least(each + 1) == sum(count > each for count in counts)


@dataclass
class Waiting:
    key: QueueKey
    shape: Shape
    flow: Flow
    batch: bool
    held: bool


class SlowShares:
    """Counters by the rules of the virtual token counter, with nothing indexed."""

    def __init__(self) -> None:
        self.tenants = dict.fromkeys(TENANTS, 0.0)
        self.sessions: dict[Flow, float] = {}
        self.last_tenant: TenantId | None = None
        self.last_session: dict[TenantId, float] = {}
        self.parked: set[TenantId] = set()


class FairQueueAgainstList(RuleBasedStateMachine):
    """Jobs come, are promoted, charged for, parked, and go; every answer is compared with a search of the list."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = Queue()
        self.slow = SlowShares()
        self.plain: list[Waiting] = []
        self.number = 0
        self.now = 0.0

    def rivals(self, lane: ModelId | None) -> list[Waiting]:
        return [w for w in self.plain if None in (lane, w.shape.lane) or w.shape.lane == lane]

    def turn(self, waiting: Waiting) -> Turn:
        if waiting.key.tier is Tier.FIRST:
            return Turn(Tier.FIRST, 0.0, 0.0, waiting.key)
        flow = waiting.flow
        return Turn(waiting.key.tier, self.slow.tenants[flow.tenant], self.slow.sessions[flow], waiting.key)

    def lift(self, flow: Flow, lane: ModelId | None, tier: Tier) -> None:
        """Who has nothing waiting is lifted to the lowest of its tier that competes, or to who waited last."""
        slow, fair = self.slow, [w for w in self.plain if w.key.tier is not Tier.FIRST]
        slow.sessions.setdefault(flow, 0.0)
        beside = [w for w in self.rivals(lane) if w.key.tier is tier]
        if not any(w.flow.tenant == flow.tenant for w in fair):
            last = 0.0 if slow.last_tenant is None else slow.tenants[slow.last_tenant]
            lows = [slow.tenants[w.flow.tenant] for w in beside if w.flow.tenant not in slow.parked]
            slow.tenants[flow.tenant] = max(slow.tenants[flow.tenant], min(lows, default=last))
        if not any(w.flow == flow for w in fair):
            lows = [slow.sessions[w.flow] for w in beside if w.flow.tenant == flow.tenant]
            last = slow.last_session.get(flow.tenant, 0.0)
            slow.sessions[flow] = max(slow.sessions[flow], min(lows, default=last))

    @rule(
        lane=st.sampled_from([None, *MODELS]),
        pin=st.sampled_from([None, WORKER, WorkerId("v")]),
        tier=st.sampled_from(Tier),
        since=st.integers(0, 9),
        flow=st.sampled_from(FLOWS),
        batch=st.booleans(),
        held=st.booleans(),
    )
    def push(
        self,
        lane: ModelId | None,
        pin: WorkerId | None,
        tier: Tier,
        since: int,
        flow: Flow,
        batch: bool,
        held: bool,
    ) -> None:
        self.number += 1
        key = QueueKey(tier, self.now + since, self.number, JobId(f"j{self.number}"))
        self.queue.shares.enter(flow)  # nobody leaves, so that sessions are never forgotten here
        if tier is not Tier.FIRST:
            self.lift(flow, lane, tier)
        else:
            self.slow.sessions.setdefault(flow, 0.0)
        self.queue.push(key, Shape(lane, pin), flow, batch=batch, held=held)
        self.plain.append(Waiting(key, Shape(lane, pin), flow, batch, held))

    @rule(at=st.integers(0, 99), tokens=st.integers(0, 50))
    def dispatch(self, at: int, tokens: int) -> None:
        if not self.plain:
            return
        gone = self.plain.pop(at % len(self.plain))
        self.queue.remove(gone.key.job_id)
        fair = [w.flow for w in self.plain if w.key.tier is not Tier.FIRST]
        if gone.key.tier is not Tier.FIRST and gone.flow.tenant not in {flow.tenant for flow in fair}:
            self.slow.last_tenant = gone.flow.tenant
        self.charge(FLOWS.index(gone.flow), tokens)
        # The last session to go is remembered by what it has, charges since included; here it was just charged.
        if gone.key.tier is not Tier.FIRST and gone.flow not in fair:
            self.slow.last_session[gone.flow.tenant] = self.slow.sessions[gone.flow]

    @rule(flow=st.integers(0, len(FLOWS) - 1), tokens=st.integers(-20, 50))
    def charge(self, flow: int, tokens: int) -> None:
        of = FLOWS[flow]
        if of not in self.slow.sessions:
            return
        session = self.queue.shares.of(of.tenant).session(of.session)
        was_last = self.queue.shares.of(of.tenant).last_session is session
        self.queue.shares.charge(of, tokens)
        self.slow.tenants[of.tenant] += tokens
        self.slow.sessions[of] += tokens
        if was_last:
            self.slow.last_session[of.tenant] = self.slow.sessions[of]

    @rule(tenant=st.sampled_from(TENANTS))
    def park_or_unpark(self, tenant: TenantId) -> None:
        share = self.queue.shares.of(tenant)
        if not share.parked:
            self.queue.shares.park(share)
            self.slow.parked.add(tenant)
            return
        lanes = {(w.shape.lane, w.key.tier) for w in self.plain if w.flow.tenant == tenant}
        beside = [
            self.slow.tenants[w.flow.tenant]
            for w in self.plain
            if w.key.tier is not Tier.FIRST
            and w.flow.tenant not in self.slow.parked
            and (w.shape.lane, w.key.tier) in lanes
        ]
        own = self.slow.tenants[tenant]
        self.slow.tenants[tenant] = max(own, min(beside, default=own))
        self.slow.parked.discard(tenant)
        self.queue.shares.unpark(share)

    @rule(at=st.integers(0, 99))
    def offer(self, at: int) -> None:
        if self.plain:
            waiting = self.plain[at % len(self.plain)]
            self.queue.offer(waiting.key.job_id)
            waiting.held = False

    @rule(seconds=st.integers(0, 4))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds
        self.queue.promote(self.now)
        for waiting in self.plain:
            if waiting.key.tier is Tier.BACKGROUND and waiting.key.since <= self.now:
                waiting.key = waiting.key._replace(tier=Tier.NORMAL)

    @invariant()
    def turns_are_what_the_rules_say(self) -> None:
        for waiting in self.plain:
            assert self.queue.turn(waiting.key.job_id) == self.turn(waiting)

    @invariant()
    def the_first_of_every_bucket_is_the_first_of_all_in_it(self) -> None:
        offered = [w for w in self.plain if not w.held]
        free = [w for w in offered if w.key.tier is Tier.FIRST or w.flow.tenant not in self.slow.parked]
        for model in MODELS:
            mine = [w for w in free if w.shape.lane in (None, model) and w.shape.pin_worker in (None, WORKER)]
            firsts = {shape: min(self.turn(w) for w in mine if w.shape == shape) for shape in {w.shape for w in mine}}
            assert {shape: turn for turn, shape in self.queue.heads(model, WORKER)} == firsts
        for waiting in offered:
            same = [self.turn(w) for w in free if w.shape == waiting.shape]
            assert self.queue.leads(waiting.key.job_id) == (bool(same) and min(same) == self.turn(waiting))

    @invariant()
    def the_next_promotion_is_the_earliest(self) -> None:
        times = [w.key.since for w in self.plain if w.key.tier is Tier.BACKGROUND]
        assert self.queue.next_promotion() == min(times, default=None)

    @invariant()
    def places_are_believable(self) -> None:
        """Never more than wait ahead at worst; at least those of better tiers and its own session's earlier ones;
        0 exactly for who is next of all that compete; and exact when nobody else has a flow."""
        for waiting in self.plain:
            place = self.queue.position(waiting.key.job_id)
            assert place is not None
            rivals = [w for w in self.rivals(waiting.shape.lane) if w is not waiting]
            better = [w for w in rivals if w.key.tier < waiting.key.tier]
            peers = [w for w in rivals if w.key.tier is waiting.key.tier]
            own = [w for w in peers if w.flow == waiting.flow or waiting.key.tier is Tier.FIRST]
            earlier = sum(w.key < waiting.key for w in own)
            assert len(better) + earlier <= place <= len(better) + len(peers) - len(own) + earlier
            if len(own) == len(peers):
                assert place == len(better) + earlier
            if waiting.key.tier is Tier.FIRST or waiting.flow.tenant not in self.slow.parked:
                competing = [w for w in peers if w.flow.tenant not in self.slow.parked] if own != peers else peers
                before = [w for w in competing if self.turn(w) < self.turn(waiting)]
                assert before or place == len(better) + earlier


TestFairQueueAgainstList = FairQueueAgainstList.TestCase
TestFairQueueAgainstList.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_places_assume_equal_turns() -> None:
    """The third job of a tenant has two of its own ahead, and as many of another that has more waiting."""
    queue = Queue()
    for number in range(13):
        flow = Flow(TENANTS[0 if number < 10 else 1], None)
        key = QueueKey(Tier.NORMAL, float(number), number, JobId(f"j{number}"))
        queue.push(key, Shape(MODELS[0]), flow, batch=False, held=False)
    places = [queue.position(JobId(f"j{number}")) for number in range(13)]
    assert places[10:] == [1, 3, 5], "the one tenant came later, so the other begins each round"
    assert places[:10] == [0, 2, 4, 6, 7, 8, 9, 10, 11, 12]


def test_idleness_earns_no_credit() -> None:
    """Who comes after others were served a while does not go before them until it got as much."""
    queue = Queue()
    old, new = Flow(TENANTS[0], None), Flow(TENANTS[1], None)
    for number in range(3):
        key = QueueKey(Tier.NORMAL, float(number), number, JobId(f"j{number}"))
        queue.push(key, Shape(MODELS[0]), old, batch=False, held=False)
    queue.shares.charge(old, 1000)
    queue.push(QueueKey(Tier.NORMAL, 9.0, 9, JobId("j9")), Shape(MODELS[0]), new, batch=False, held=False)
    assert queue.turn(JobId("j9")).tenant_counter == 1000
    queue.shares.charge(old, 10)
    assert queue.leads(JobId("j9"))
