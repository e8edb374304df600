"""The planner: decode rows in every step, budgets and slots respected, every sequence ends, nothing leaks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llorch.base import errors
from llorch.batching.blocks import BlockPool, blocks_for
from llorch.batching.planner import Outcome, Planner, StepPlan
from llorch.batching.sequence import SamplingParams, Sequence, SequenceState, StopReason

EOS = 0
CONTEXT = 512


def sequence(job_id: str, prompt: int = 3, max_tokens: int = 4, resumed: tuple[int, ...] = ()) -> Sequence:
    return Sequence(
        job_id, tuple(range(1, prompt + 1)), max_tokens, SamplingParams(), frozenset({EOS}), resumed_ids=resumed
    )


def answer(plan: StepPlan, token: int = 7) -> list[int | None]:
    return [None if row.draw is None else token for row in plan.rows]


def step(planner: Planner, token: int = 7) -> list[Outcome]:
    plan = planner.plan()
    return planner.commit(plan, answer(plan, token))


def test_a_sequence_from_prefill_to_max_tokens() -> None:
    """One prefill row that draws, then one decode row a step at the next position, then MAX_TOKENS."""
    planner = Planner(slots=2, context=CONTEXT)
    planner.add(sequence("a", prompt=3, max_tokens=3))
    first = planner.plan().rows[0]
    assert (first.slot, list(first.positions), first.token_ids) == (0, [0, 1, 2], (1, 2, 3))
    assert first.draw is not None and first.draw.index == 0
    assert step(planner) == [Outcome("a", (7,), 1)]
    second = planner.plan().rows[0]
    assert (list(second.positions), second.token_ids) == ([3], (7,))
    assert second.draw is not None and second.draw.index == 1
    assert step(planner) == [Outcome("a", (7,), 2)]
    assert step(planner) == [Outcome("a", (7,), 3, StopReason.MAX_TOKENS)]
    assert not planner.plan()
    assert planner.blocks.free == planner.blocks.capacity


def test_eos_is_neither_appended_nor_counted() -> None:
    """The end-of-sequence id ends the text without being part of it."""
    planner = Planner(slots=1, context=CONTEXT)
    planner.add(sequence("a"))
    step(planner)
    assert step(planner, EOS) == [Outcome("a", (), 1, StopReason.EOS)]


def test_long_prompt_does_not_stall_the_others() -> None:
    """While a long prompt is prefilled in chunks, a decoding sequence gets a token in every step."""
    planner = Planner(slots=3, context=CONTEXT, step_tokens=33)
    planner.add(sequence("short", max_tokens=50))
    step(planner)
    planner.add(sequence("long", prompt=400))
    steps = 0
    while (long := planner.sequence("long")) is not None and long.state is not SequenceState.DECODE:
        plan = planner.plan()
        assert plan.rows[0].job_id == "short"
        assert plan.token_count <= 33
        planner.commit(plan, answer(plan))
        steps += 1
    assert steps == -(-400 // 32)


def test_short_prompt_beside_a_long_one_starts_first() -> None:
    """Chunks are shared max-min fair: the short prompt takes what it needs, the long one the rest."""
    planner = Planner(slots=2, context=CONTEXT, step_tokens=40)
    planner.add(sequence("long", prompt=400))
    planner.add(sequence("short", prompt=5))
    sizes = {row.job_id: len(row.token_ids) for row in planner.plan().rows}
    assert sizes == {"short": 5, "long": 35}


def test_resumed_ids_count() -> None:
    """Resumed ids are prefilled after the prompt, count towards max_tokens, and shift the index of the draw."""
    planner = Planner(slots=1, context=CONTEXT)
    planner.add(sequence("a", prompt=2, max_tokens=4, resumed=(8, 9)))
    row = planner.plan().rows[0]
    assert row.token_ids == (1, 2, 8, 9)
    assert row.draw is not None and row.draw.index == 2
    assert step(planner) == [Outcome("a", (7,), 3)]
    assert step(planner) == [Outcome("a", (7,), 4, StopReason.MAX_TOKENS)]
    assert planner.add(sequence("b", max_tokens=2, resumed=(8, 9))) == Outcome("b", (), 2, StopReason.MAX_TOKENS)
    assert planner.live == 0


def test_penalty_needs_the_history() -> None:
    """Only a sequence with a repetition penalty carries all its ids in the plan."""
    planner = Planner(slots=2, context=CONTEXT)
    planner.add(sequence("plain"))
    planner.add(Sequence("penalised", (1, 2), 3, SamplingParams(repetition_penalty=1.2), resumed_ids=(5,)))
    draws = {row.job_id: row.draw for row in planner.plan().rows}
    assert draws["plain"] is not None and draws["plain"].history == ()
    assert draws["penalised"] is not None and draws["penalised"].history == (1, 2, 5)


def test_refusals_change_nothing() -> None:
    """A duplicate, an empty prompt and one that does not fit are refused, and the planner stays as it was."""
    planner = Planner(slots=1, context=100)
    planner.add(sequence("a"))
    with pytest.raises(errors.DuplicateJob):
        planner.add(sequence("a"))
    with pytest.raises(errors.InvalidRequest):
        planner.add(sequence("b", prompt=0))
    with pytest.raises(errors.ContextLengthExceeded):
        planner.add(sequence("c", prompt=90, max_tokens=11))
    assert planner.live == 1
    assert planner.add(sequence("d", prompt=90, max_tokens=10)) is None


def test_cancel_between_plan_and_commit() -> None:
    """A cancelled sequence yields nothing more, and the newcomer in its slot is not given its token."""
    planner = Planner(slots=1, context=CONTEXT)
    planner.add(sequence("a"))
    planner.add(sequence("b"))
    plan = planner.plan()
    assert planner.cancel("a") == Outcome("a", (), 0, StopReason.CANCELLED)
    assert planner.cancel("a") is None
    assert planner.plan().rows[0].job_id == "b"
    assert planner.commit(plan, answer(plan)) == []
    b = planner.sequence("b")
    assert b is not None and b.computed == 0 and b.slot == 0


def test_admission_waits_for_blocks() -> None:
    """A free slot is not enough: all blocks a sequence can need must be free too, first come, first served."""
    planner = Planner(slots=3, context=256, blocks=BlockPool(3))
    planner.add(sequence("a", prompt=200, max_tokens=50))
    planner.add(sequence("b", prompt=200, max_tokens=50))
    planner.add(sequence("c", prompt=5))
    assert {row.job_id for row in planner.plan().rows} == {"a"}
    planner.cancel("a")
    assert {row.job_id for row in planner.plan().rows} == {"b", "c"}


def test_blocks_for() -> None:
    """Blocks round up to 128 positions."""
    assert [blocks_for(n) for n in (0, 1, 128, 129, 256)] == [0, 1, 1, 2, 2]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 9)), max_size=12), st.integers(1, 4), st.integers(1, 30))
def test_every_sequence_ends(jobs: list[tuple[int, int]], slots: int, room: int) -> None:
    """Whatever is submitted, each sequence ends with all its tokens after a bounded number of steps."""
    planner = Planner(slots=slots, context=100, step_tokens=slots + room)
    for number, (prompt, max_tokens) in enumerate(jobs):
        planner.add(sequence(f"j{number}", prompt, max_tokens))
    ended: dict[str, int] = {}
    for _ in range(sum(prompt + max_tokens for prompt, max_tokens in jobs) + 1):
        for outcome in step(planner):
            if outcome.stop_reason is not None:
                ended[outcome.job_id] = outcome.tokens_out
    assert ended == {f"j{number}": max_tokens for number, (_, max_tokens) in enumerate(jobs)}


class PlannerMachine(RuleBasedStateMachine):
    """Random adds, cancels and steps over few slots and little memory; the invariants hold after each."""

    def __init__(self) -> None:
        super().__init__()
        self.planner = Planner(slots=3, context=256, step_tokens=20, blocks=BlockPool(4))
        self.number = 0
        self.left: dict[str, int] = {}

    @rule(prompt=st.integers(1, 150), max_tokens=st.integers(1, 100))
    def add(self, prompt: int, max_tokens: int) -> None:
        self.number += 1
        self.planner.add(sequence(f"j{self.number}", prompt, max_tokens))
        self.left[f"j{self.number}"] = max_tokens

    @precondition(lambda self: self.left)
    @rule(pick=st.integers(0, 99))
    def cancel(self, pick: int) -> None:
        job_id = sorted(self.left)[pick % len(self.left)]
        outcome = self.planner.cancel(job_id)
        assert outcome is not None and outcome.stop_reason is StopReason.CANCELLED
        del self.left[job_id]

    @rule(token=st.integers(0, 5))
    def step(self, token: int) -> None:
        plan = self.planner.plan()
        assert plan == self.planner.plan()
        assert plan.token_count <= 20
        assert bool(plan) == bool(self.left)
        assert len({row.slot for row in plan.rows}) == len(plan.rows) <= 3
        decoding = {j for j in self.left if self._state(j) is SequenceState.DECODE}
        assert {row.job_id for row in plan.rows[: len(decoding)]} == decoding
        for outcome in self.planner.commit(plan, answer(plan, token)):
            self.left[outcome.job_id] -= len(outcome.token_ids)
            if outcome.stop_reason is not None:
                assert self.left.pop(outcome.job_id) == 0 or token == EOS

    def _state(self, job_id: str) -> SequenceState:
        found = self.planner.sequence(job_id)
        assert found is not None
        return found.state

    @invariant()
    def nothing_leaks(self) -> None:
        assert self.planner.live == len(self.left)
        assert self.planner.slots_busy <= 3
        assert 0 <= self.planner.blocks.free <= 4
        if not self.left:
            assert self.planner.blocks.free == 4


PlannerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestPlannerMachine = PlannerMachine.TestCase
