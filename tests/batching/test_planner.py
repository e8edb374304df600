"""The planner by example: rows and draws, budgets, who is admitted, who is preempted, what is reused."""

from __future__ import annotations

import pytest
from simulated_model import SimulatedModel, alone

from llorch.base import errors
from llorch.batching.blocks import blocks_for
from llorch.batching.pacer import TOKENS_FIRST
from llorch.batching.plan import Copy, Draw, Drawn, Outcome, Row, StepPlan
from llorch.batching.planner import Planner
from llorch.batching.sequence import SamplingParams, Sequence, SequenceState, StopReason
from llorch.batching.waiting import OVERTAKEN_MAX

EOS = 0
CONTEXT = 512
PLAIN = SamplingParams()


def sequence(key: str, prompt: int = 3, max_tokens: int = 4, resumed: tuple[int, ...] = (), first: int = 1) -> Sequence:
    """A job whose prompt counts up from `first`."""
    return Sequence(key, tuple(range(first, first + prompt)), max_tokens, PLAIN, frozenset({EOS}), resumed)


def step(planner: Planner, token: int = 7) -> list[Outcome]:
    """One step in which every draw is `token`."""
    plan = planner.plan()
    return planner.commit(plan, [(Drawn(token),) * len(row.draws) for row in plan.rows], 0.01)


def shape(plan: StepPlan) -> dict[str, int]:
    """How many positions each job gets."""
    return {row.key: len(row.token_ids) for row in plan.rows}


def test_a_sequence_from_prefill_to_max_tokens() -> None:
    """One prefill row that draws, then one decode row a step at the next position, then MAX_TOKENS."""
    planner = Planner(slots=2, context=CONTEXT)
    planner.add(sequence("a", prompt=3, max_tokens=3))
    assert planner.plan() == StepPlan((Row("a", 0, (1, 2, 3), (Draw(PLAIN, 0),), (0,)),))
    assert step(planner) == [Outcome("a", (Drawn(7),), 1)]
    assert planner.plan() == StepPlan((Row("a", 3, (7,), (Draw(PLAIN, 1),), (0,)),))
    assert step(planner, 8) == [Outcome("a", (Drawn(8),), 2)]
    assert step(planner, 9) == [Outcome("a", (Drawn(9),), 3, StopReason.MAX_TOKENS)]
    assert not planner.plan() and planner.live == planner.slots_busy == 0


def test_eos_is_neither_appended_nor_counted() -> None:
    """The end-of-sequence id ends the text without being part of it."""
    planner = Planner(slots=1, context=CONTEXT)
    planner.add(sequence("a"))
    step(planner)
    assert step(planner, EOS) == [Outcome("a", (), 1, StopReason.EOS)]


def test_long_prompt_does_not_stall_the_others() -> None:
    """While a long prompt is prefilled in chunks, a decoding sequence gets its token in every step."""
    planner = Planner(slots=3, context=CONTEXT, step_tokens_max=33, drafts_max=0)
    planner.add(sequence("short", max_tokens=50))
    step(planner)
    planner.add(sequence("long", prompt=400, first=100))
    steps = 0
    while (long := planner.sequence("long")) is not None and long.state is not SequenceState.DECODE:
        assert next(iter(shape(planner.plan()))) == "short"
        step(planner)
        steps += 1
    assert steps == -(-400 // 33)


def test_short_prompt_beside_a_long_one_starts_first() -> None:
    """Chunks are shared max-min fair: the short prompt takes what it needs, the long one the rest."""
    planner = Planner(slots=2, context=CONTEXT)
    planner.add(sequence("long", prompt=400))
    planner.add(sequence("short", prompt=5))
    assert shape(planner.plan()) == {"long": TOKENS_FIRST - 5, "short": 5}


def test_resumed_ids_count() -> None:
    """Resumed ids are prefilled after the prompt, count towards max_tokens, and shift the index of the draw."""
    planner = Planner(slots=1, context=CONTEXT)
    planner.add(sequence("a", prompt=2, max_tokens=4, resumed=(8, 9)))
    assert planner.plan().rows == (Row("a", 0, (1, 2, 8, 9), (Draw(PLAIN, 2),), (0,)),)
    assert step(planner) == [Outcome("a", (Drawn(7),), 3)]
    assert step(planner) == [Outcome("a", (Drawn(7),), 4, StopReason.MAX_TOKENS)]
    assert planner.add(sequence("b", max_tokens=2, resumed=(8, 9))) == Outcome("b", (), 2, StopReason.MAX_TOKENS)
    assert planner.live == 0


@pytest.mark.parametrize("penalty", ["repetition_penalty", "presence_penalty", "frequency_penalty"])
def test_penalty_needs_the_history(penalty: str) -> None:
    """Only a sequence with a penalty carries all its ids in the plan, and how many of them are the prompt's."""
    planner = Planner(slots=2, context=CONTEXT)
    planner.add(sequence("plain"))
    planner.add(Sequence("penalised", (1, 2), 3, SamplingParams(**{penalty: 1.2}), resumed_ids=(5,)))
    draws = {row.key: (row.draws[0].history, row.draws[0].prompt_length) for row in planner.plan().rows}
    assert draws == {"plain": ((), 0), "penalised": ((1, 2, 5), 2)}


def test_refusals_change_nothing() -> None:
    """A duplicate, an empty prompt and one that does not fit are refused, and the planner stays as it was."""
    planner = Planner(slots=1, context=100)
    planner.add(sequence("a"))
    plan = planner.plan()
    with pytest.raises(errors.DuplicateJob):
        planner.add(sequence("a"))
    with pytest.raises(errors.InvalidRequest):
        planner.add(sequence("b", prompt=0))
    with pytest.raises(errors.ContextLengthExceeded):
        planner.add(sequence("c", prompt=90, max_tokens=11))
    assert planner.live == 1 and planner.plan() == plan
    assert planner.add(sequence("d", prompt=90, max_tokens=10)) is None


def test_cancel_between_plan_and_commit() -> None:
    """A cancelled sequence yields nothing more, and one that comes in its place is not given its token."""
    planner = Planner(slots=1, context=CONTEXT)
    planner.add(sequence("a"))
    planner.add(sequence("b"))
    plan = planner.plan()
    drawn = [(Drawn(7),)]
    assert planner.cancel("a") == Outcome("a", (), 0, StopReason.CANCELLED)
    assert planner.cancel("a") is None and planner.abort("a") is None
    planner.add(sequence("a"))
    assert shape(planner.plan()) == {"b": 3}
    assert planner.commit(plan, drawn, 0.01) == []
    planner.cancel("b")
    assert shape(planner.plan()) == {"a": 3}
    assert planner.commit(plan, drawn, 0.01) == [] and planner.counts.blocks_used == 1


def test_stretch_by_the_length_a_sequence_may_reach() -> None:
    """Above `long_from` all rows are stretched, and share nothing with those that are not."""
    planner = Planner(slots=1, context=CONTEXT, blocks=12, long_from=300)
    for key, max_tokens, stretch, reused in [
        ("short", 10, False, 0),
        ("long", 11, True, 0),
        ("again", 10, False, 289),
        ("last", 11, True, 578),
    ]:
        planner.add(sequence(key, prompt=290, max_tokens=max_tokens))
        while planner.sequence(key) is not None:
            assert all(row.stretch is stretch for row in planner.plan().rows)
            step(planner)
        assert planner.counts.prompt_tokens_reused == reused


def test_a_finished_sequence_is_continued_by_the_token() -> None:
    """Whole blocks are shared and the part of one is copied; only the rest is computed, and at least one token."""
    planner = Planner(slots=1, context=CONTEXT, drafts_max=0)
    planner.add(sequence("first", prompt=200, max_tokens=3))
    while planner.live:
        step(planner)
    known = (*range(1, 201), 7, 7)
    planner.add(Sequence("next", (*known, 5, 6), 3))
    expected = Row("next", 202, (5, 6), (Draw(PLAIN, 0),), (0, 2))
    assert planner.plan() == StepPlan((expected,), (Copy(1, 2, 74),))
    planner.cancel("next")
    planner.add(Sequence("same", known[:128], 3))
    assert planner.plan() == StepPlan((Row("same", 127, (128,), (Draw(PLAIN, 0),), (2,)),), (Copy(0, 2, 127),))
    counts = planner.counts
    assert (counts.prompt_tokens_looked_up, counts.prompt_tokens_reused) == (200 + 204 + 128, 202 + 127)


def test_a_copy_that_was_not_made_is_asked_for_again() -> None:
    """Until a commit every plan carries it; cancelled before, its block is not taken for what it is not."""
    planner = Planner(slots=2, context=CONTEXT, drafts_max=0)
    planner.add(sequence("first", prompt=100, max_tokens=1))
    while planner.live:
        step(planner)
    planner.add(Sequence("next", (*range(1, 60), 99, 98), 3))
    copies = planner.plan().copies
    assert copies == (Copy(0, 1, 59),)
    planner.add(sequence("other", first=300))
    assert planner.plan().copies == copies
    planner.cancel("next")
    assert planner.plan().copies == ()
    assert [node.block for node in planner.cache.tree.nodes()] == [0]
    planner.add(Sequence("next", (*range(1, 60), 99, 98), 3))
    step(planner)
    assert planner.plan().copies == ()


def test_the_same_beginning_is_computed_once_at_a_time() -> None:
    """Of sequences at the same whole block one computes it; the others take it over."""
    planner = Planner(slots=3, context=CONTEXT)
    for key, last in (("a", 1000), ("b", 1001), ("c", 1002)):
        planner.add(Sequence(key, (*range(260), last), 9))
    computed = 0
    while any(s is not None and s.state is not SequenceState.DECODE for s in map(planner.sequence, "abc")):
        plan = planner.plan()
        computed += plan.token_count - sum(len(row.draws) for row in plan.rows if row.start > 260)
        step(planner)
    assert computed < 261 + 2 * 10
    blocks = [s.blocks[:2] for s in map(planner.sequence, "abc") if s is not None]
    assert blocks == [blocks[0]] * 3


def test_blocks_that_become_the_same_are_one() -> None:
    """Two sequences that grow into the same whole block go on in one of the two, and the other is free."""
    planner = Planner(slots=2, context=CONTEXT, drafts_max=0)
    for key in "ab":
        planner.add(sequence(key, prompt=120, max_tokens=20))
    while any(s is not None and len(s.token_ids) < 130 for s in map(planner.sequence, "ab")):
        step(planner)
    assert [row.blocks for row in planner.plan().rows] == [(0, 1), (0, 2)]
    assert planner.counts.blocks_used == 3


def test_an_aborted_sequence_leaves_only_what_steps_completed() -> None:
    """Whole blocks stay; the private one, which the failed step may have spoilt, does not."""
    planner = Planner(slots=1, context=CONTEXT)
    planner.add(sequence("a", prompt=200))
    while step(planner) == []:
        pass
    planner.abort("a")
    assert [len(node.token_ids) for node in planner.cache.tree.nodes()] == [128]


def test_admission_waits_for_blocks() -> None:
    """A slot is not enough: what others have still to take is not free, and one block more is needed to begin."""
    planner = Planner(slots=3, context=384, blocks=4)
    planner.add(sequence("a", prompt=200, max_tokens=50))
    planner.add(sequence("b", prompt=200, max_tokens=150, first=300))
    assert shape(planner.plan()).keys() == {"a"}
    planner.add(sequence("c", prompt=5, first=600))
    assert shape(planner.plan()).keys() == {"a", "c"}
    planner.cancel("a")
    planner.cancel("c")
    assert shape(planner.plan()).keys() == {"b"}


def test_nobody_is_overtaken_for_ever() -> None:
    """A large sequence lets small ones pass so many times; then they wait until it has its turn."""
    planner = Planner(slots=3, context=512, blocks=4)
    planner.add(sequence("first", prompt=200, max_tokens=300, first=5000))
    step(planner)
    planner.add(sequence("large", prompt=370, max_tokens=100, first=6000))
    passed = 0
    for number in range(10 * OVERTAKEN_MAX):
        planner.add(sequence(f"small{number}", prompt=2, max_tokens=1, first=10 * number))
        step(planner)
        if planner.sequence(f"small{number}") is not None:
            break
        passed += 1
    assert passed == OVERTAKEN_MAX
    planner.cancel("first")
    assert next(iter(shape(planner.plan()))) == "large"


def test_the_last_to_come_makes_room() -> None:
    """With no block left the youngest goes back to waiting; it returns, and nothing of its text is different."""
    planner, model = Planner(slots=2, context=512, blocks=4, drafts_max=0), SimulatedModel()
    jobs = [Sequence("old", tuple(range(120)), 300, PLAIN), Sequence("young", tuple(range(200, 310)), 300, PLAIN)]
    texts: dict[str, list[int]] = {"old": [], "young": []}
    for job in jobs:
        planner.add(job)
    preempted = []
    while planner.live:
        plan = planner.plan()
        waiting = {job.key for job in jobs if job.state is SequenceState.WAITING}
        preempted += [key for key in waiting if key not in preempted]
        for outcome in planner.commit(plan, model.run(plan), 0.01):
            texts[outcome.key] += outcome.token_ids
    assert preempted == ["young"] and 1 <= planner.preempted <= 2
    assert texts == {job.key: list(alone(job)[0]) for job in jobs}


def test_labels_tell_what_is_kept() -> None:
    """The latest first; when the tree is cut back, the label of the shorter beginning stays longer."""
    planner = Planner(slots=1, context=CONTEXT, blocks=4)
    planner.add(Sequence("a", tuple(range(300)), 1, labels=("half", "whole")))
    while planner.live:
        step(planner)
    assert planner.labels(9) == ("whole", "half") and planner.labels(1) == ("whole",)
    planner.cache.tree.evict()
    assert planner.labels(9) == ("half",)
    planner.cache.tree.evict()
    assert planner.labels(9) == ()


def test_a_prompt_left_early_is_not_told_as_whole() -> None:
    """Cancelled after 256 of 1000 tokens: of four labels, each a quarter more, only the first is here."""
    planner = Planner(slots=1, context=1024, step_tokens_max=64)
    sequence = Sequence("a", tuple(range(1000)), 1, labels=("q1", "q2", "q3", "q4"))
    planner.add(sequence)
    while sequence.computed < 256:
        step(planner)
    planner.cancel("a")
    assert planner.labels(9) == ("q1",)


def test_idle_blocks_are_bounded() -> None:
    """What nobody uses is kept up to `idle_max` blocks, the beginning for longest."""
    planner = Planner(slots=1, context=CONTEXT, idle_max=2)
    planner.add(sequence("a", prompt=500, max_tokens=1))
    while planner.live:
        step(planner)
    assert planner.counts.blocks_used == planner.counts.blocks_idle == 2
    assert {node.token_ids[0] for node in planner.cache.tree.nodes()} == {1, 129}


def test_blocks_for() -> None:
    """Blocks round up to 128 positions."""
    assert [blocks_for(n) for n in (0, 1, 128, 129, 256)] == [0, 1, 1, 2, 2]
