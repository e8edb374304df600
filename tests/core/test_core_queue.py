"""The queue's structures against dumb ones."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from llorch.base.ids import JobId, ModelId, WorkerId
from llorch.core import sorted_keys
from llorch.core.queue import DrainRate, Queue, QueueKey, Shape, Tier
from llorch.core.sorted_keys import SortedKeys

MODELS = [ModelId("a"), ModelId("b")]
WORKER = WorkerId("w")


def key(number: int, rank: int = 1, since: float = 0.0) -> QueueKey:
    return QueueKey(Tier(rank), since, number, JobId(f"j{number}"))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5), st.booleans()), max_size=120))
def test_sorted_keys_equal_a_sorted_list(steps: list[tuple[int, int, bool]]) -> None:
    """Adding, removing, ranking in chunks gives what sorting everything would."""
    chunk_max, sorted_keys.CHUNK_MAX = sorted_keys.CHUNK_MAX, 4
    try:
        keys, plain = SortedKeys[QueueKey](), list[QueueKey]()
        for number, (rank, since, drop) in enumerate(steps):
            fresh = key(number, rank, since)
            keys.add(fresh)
            plain = sorted([*plain, fresh])
            assert [keys.rank(k) for k in plain] == list(range(len(plain)))
            if drop:
                gone = plain.pop(len(plain) * since // 6)
                keys.remove(gone)
            assert list(keys) == plain
            assert len(keys) == len(plain)
            assert not plain or keys.first() == plain[0]
    finally:
        sorted_keys.CHUNK_MAX = chunk_max


class QueueAgainstList(RuleBasedStateMachine):
    """The queue, and a plain list of (key, shape, held) that is searched from end to end."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = Queue()
        self.plain: list[tuple[QueueKey, Shape, bool, bool]] = []
        self.number = 0

    @rule(
        lane=st.sampled_from([None, *MODELS]),
        pin=st.sampled_from([None, WORKER, WorkerId("v")]),
        rank=st.integers(0, 1),
        since=st.integers(0, 9),
        batch=st.booleans(),
        held=st.booleans(),
    )
    def push(self, lane: ModelId | None, pin: WorkerId | None, rank: int, since: int, batch: bool, held: bool) -> None:
        self.number += 1
        entry = (key(self.number, rank, float(since)), Shape(lane, pin), batch, held)
        self.queue.push(entry[0], entry[1], batch=batch, held=held)
        self.plain = sorted([*self.plain, entry])

    @rule(at=st.integers(0, 99))
    def remove(self, at: int) -> None:
        if self.plain:
            gone = self.plain.pop(at % len(self.plain))
            self.queue.remove(gone[0].job_id)

    @rule(at=st.integers(0, 99))
    def offer(self, at: int) -> None:
        if self.plain:
            index = at % len(self.plain)
            k, shape, batch, _ = self.plain[index]
            self.queue.offer(k.job_id)
            self.plain[index] = (k, shape, batch, False)

    @rule(at=st.integers(0, 99), context=st.integers(0, 2))
    def reshape(self, at: int, context: int) -> None:
        if self.plain:
            index = at % len(self.plain)
            k, shape, batch, held = self.plain[index]
            shape = shape._replace(context=context)
            self.queue.reshape(k.job_id, shape)
            self.plain[index] = (k, shape, batch, held)

    @invariant()
    def places_are_counted_right(self) -> None:
        assert len(self.queue) == len(self.plain)
        for k, shape, _, _ in self.plain:
            rivals = [o for o, s, _, _ in self.plain if None in (shape.lane, s.lane) or s.lane == shape.lane]
            assert self.queue.position(k.job_id) == sum(other < k for other in rivals)

    @invariant()
    def the_first_of_all_heads_is_the_first_of_all(self) -> None:
        for model in MODELS:
            mine = [
                k
                for k, shape, _, held in self.plain
                if not held and shape.lane in (None, model) and shape.pin_worker in (None, WORKER)
            ]
            heads = [turn.key for turn, _ in self.queue.heads(model, WORKER)]
            assert min(heads, default=None) == min(mine, default=None)

    @invariant()
    def the_oldest_batch_job_is_known(self) -> None:
        batch = [k.job_id for k, _, is_batch, _ in self.plain if is_batch and k.tier > 0]
        assert self.queue.oldest_batch() == (batch[0] if batch else None)


TestQueueAgainstList = QueueAgainstList.TestCase
TestQueueAgainstList.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


def test_the_drain_rate_is_learned() -> None:
    """Two jobs a second for a while are seen as about two a second, and forgotten when nothing leaves."""
    rate = DrainRate(memory_s=60.0)
    assert rate.per_s(0.0) is None
    for tick in range(400):
        rate.note(tick / 2)
    learned = rate.per_s(200.0)
    assert learned is not None and 1.8 < learned < 2.2
    later = rate.per_s(500.0)
    assert later is not None and later < 0.1
