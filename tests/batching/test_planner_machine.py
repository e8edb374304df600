"""Whatever happens in whatever order, each sequence reads what it would read alone, and ends with the same tokens."""

from __future__ import annotations

import collections
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from simulated_model import EOS, SimulatedModel, alone

from llorch.batching.plan import Outcome, StepPlan
from llorch.batching.planner import Planner
from llorch.batching.prefix import Branch
from llorch.batching.sequence import SamplingParams, Sequence, SequenceState, StopReason

CONTEXT = 512
SLOTS = 3
STEP_TOKENS_MAX = 160
DRAFTS_MAX = 4
TEXTS = [[1 + (at * at + at // 5 * text) % 4 for at in range(CONTEXT)] for text in (0, 1)]


@dataclass(frozen=True)
class Job:
    """What a client might ask for."""

    text: int
    length: int
    ending: list[int]
    max_tokens: int
    sampling: SamplingParams
    resumed: int

    def sequence(self, key: str) -> Sequence:
        """As a sequence; the resumed ids are those a run of it alone begins with."""
        prompt = (*TEXTS[self.text][: self.length], *self.ending)
        labels = tuple(f"{self.text}-{part}" for part in range(1 + self.length // 100))
        fresh = Sequence(key, prompt, self.max_tokens, self.sampling, frozenset({EOS}))
        resumed = alone(fresh)[0][: self.resumed]
        return Sequence(key, prompt, self.max_tokens, self.sampling, frozenset({EOS}), resumed, labels)


JOBS = st.builds(
    Job,
    text=st.integers(0, 1),
    length=st.integers(1, 330) | st.sampled_from([127, 128, 129, 255, 256, 257, 300]),
    ending=st.lists(st.integers(1, 4), max_size=2),
    max_tokens=st.integers(1, 40) | st.integers(100, 180),
    sampling=st.builds(SamplingParams, seed=st.integers(0, 2), presence_penalty=st.sampled_from([0.0, 0.5])),
    resumed=st.integers(0, 3),
)


class PlannerMachine(RuleBasedStateMachine):
    """Few slots, few blocks, prompts with the same beginnings; steps that succeed, fail, or are interrupted."""

    @initialize(blocks=st.integers(4, 6), idle_max=st.sampled_from([0, 1, 7]))
    def begin(self, blocks: int, idle_max: int) -> None:
        self.planner = Planner(
            slots=SLOTS,
            context=CONTEXT,
            step_tokens_max=STEP_TOKENS_MAX,
            blocks=blocks,
            idle_max=idle_max,
            drafts_max=DRAFTS_MAX,
            long_from=400,
        )
        self.model = SimulatedModel()
        self.jobs: dict[str, Sequence] = {}
        self.tokens: dict[str, list[int]] = {}

    @rule(jobs=st.lists(JOBS, min_size=1, max_size=3), twins=st.integers(1, 2))
    def add(self, jobs: list[Job], twins: int) -> None:
        for job in jobs * twins:
            sequence = job.sequence(f"j{len(self.tokens)}")
            self.jobs[sequence.key] = sequence
            self.tokens[sequence.key] = list(sequence.resumed_ids)
            outcome = self.planner.add(sequence)
            if outcome is not None:
                self.note([outcome])

    @precondition(lambda self: self.jobs)
    @rule(pick=st.integers(0, 99))
    def cancel(self, pick: int) -> None:
        self._leave(self.planner.cancel(self._pick(pick)))

    @precondition(lambda self: self.jobs)
    @rule(pick=st.integers(0, 99))
    def abort(self, pick: int) -> None:
        self._leave(self.planner.abort(self._pick(pick)))

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.5]), steps=st.integers(1, 30))
    def step(self, seconds: float, steps: int) -> None:
        for _ in range(steps):
            plan = self.plan()
            self.note(self.planner.commit(plan, self.model.run(plan), seconds))

    @precondition(lambda self: self.jobs)
    @rule(pick=st.integers(0, 99))
    def cancel_during_a_step(self, pick: int) -> None:
        plan = self.plan()
        drawn = self.model.run(plan)
        key = self._pick(pick)
        self._leave(self.planner.cancel(key))
        outcomes = self.planner.commit(plan, drawn, 0.01)
        assert key not in {outcome.key for outcome in outcomes}
        self.note(outcomes)

    @precondition(lambda self: self.jobs)
    @rule()
    def a_step_fails(self) -> None:
        plan = self.plan()
        self.model.ruin(plan)
        for row in plan.rows:
            self._leave(self.planner.abort(row.key))

    @precondition(lambda self: self.jobs)
    @rule(pick=st.integers(0, 99))
    def a_step_is_interrupted(self, pick: int) -> None:
        self.model.spoil(self.plan())
        self._leave(self.planner.cancel(self._pick(pick)))

    @rule()
    def forget_what_is_idle(self) -> None:
        self.planner.cache.tree.clear()

    def plan(self) -> StepPlan:
        plan = self.planner.plan()
        assert plan == self.planner.plan()
        assert bool(plan) == bool(self.jobs)
        assert plan.token_count <= SLOTS * (1 + DRAFTS_MAX) + STEP_TOKENS_MAX
        states = [self.jobs[row.key].state for row in plan.rows]
        assert states == sorted(states, key=[SequenceState.DECODE, SequenceState.PREFILL].index)
        running = {key for key, s in self.jobs.items() if s.state is SequenceState.DECODE}
        assert running <= {row.key for row in plan.rows}, "who decodes gets a token in every step"
        return plan

    def note(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            tokens = self.tokens[outcome.key]
            tokens += outcome.token_ids
            assert outcome.tokens_out == len(tokens)
            if outcome.stop_reason is not None:
                assert (tuple(tokens), outcome.stop_reason) == alone(self.jobs.pop(outcome.key))

    def _pick(self, pick: int) -> str:
        return sorted(self.jobs)[pick % len(self.jobs)]

    def _leave(self, outcome: Outcome | None) -> None:
        assert outcome is not None and outcome.stop_reason is StopReason.CANCELLED
        del self.jobs[outcome.key]

    @invariant()
    def every_holder_is_known(self) -> None:
        cache = self.planner.cache
        holders = collections.Counter(node.block for node in cache.tree.nodes())
        assert all(count == 1 for count in holders.values())
        for sequence in self.jobs.values():
            holders.update(sequence.blocks)
            assert bool(sequence.blocks) <= (sequence.state is not SequenceState.WAITING)
        holders.update(copy.source for copy in cache.copies)
        pool = cache.pool
        assert {b: pool.holders(b) for b in range(pool.capacity) if pool.holders(b)} == holders
        assert pool.free == pool.capacity - len(holders)
        assert cache.tree.idle == sum(holders[node.block] == 1 for node in cache.tree.nodes())
        assert self.planner.slots_busy <= SLOTS and self.planner.live == len(self.jobs)
        assert set(cache.tree.labels(100)) == {label for node in cache.tree.nodes() for label in node.labels}

    @invariant()
    def the_tree_tells_the_truth(self) -> None:
        for stretch in (False, True):
            self._check(self.planner.cache.tree.root(stretch), (), stretch)

    def _check(self, branch: Branch, ids: tuple[int, ...], stretch: bool) -> None:
        for node in branch.children:
            path = (*ids, *node.token_ids)
            expected = self.model.prefixes(path, stretch)[len(ids) :]
            assert self.model.block(node.block)[: len(expected)] == expected
            self._check(node, path, stretch)

    def teardown(self) -> None:
        if not hasattr(self, "planner"):
            return
        bound = sum(len(s.token_ids) + s.max_tokens for s in self.jobs.values())
        for _ in range(4 * bound):
            if not self.jobs:
                break
            self.step(0.01, 1)
        assert not self.jobs, "every sequence ends"
        self.every_holder_is_known()
        tree, pool = self.planner.cache.tree, self.planner.cache.pool
        assert pool.free + tree.idle == pool.capacity
        tree.clear()
        assert pool.free == pool.capacity and not tree.labels(1)


PlannerMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestPlannerMachine = PlannerMachine.TestCase
