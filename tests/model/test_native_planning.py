"""The planner and the native kernels together: whatever happens around a text, it is the text that would be alone.

Random schedules with few blocks (preemption, eviction), prompts that begin alike (shared and copied blocks), repetitive
texts (drafts that are accepted), sampling with seeds and penalties, resumed texts, cancelled neighbours.
"""

from __future__ import annotations

import functools
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from runs import logits, prompt, row
from tiny_models import VOCAB
from variants import ISAS, load_native

from llorch.batching.plan import Draw, Interrupted, Row, StepPlan
from llorch.batching.planner import Planner
from llorch.batching.sequence import SamplingParams, Sequence, StopReason
from llorch.model import LoadedModel, Quantize

CONTEXT = 400
SEEDS = 6
FEW_WORDS = tuple((token, 9.0) for token in (5, 90, 150))
"""A bias that makes texts repeat themselves, so that drafts are right now and then."""

Load = Callable[..., LoadedModel]


@dataclass(frozen=True)
class Job:
    """A text to be made."""

    prompt_ids: tuple[int, ...]
    max_tokens: int
    params: SamplingParams
    resumed: int

    def sequence(self, key: str, resumed_ids: tuple[int, ...] = ()) -> Sequence:
        return Sequence(key, self.prompt_ids, self.max_tokens, self.params, frozenset({2}), resumed_ids)


@pytest.fixture(params=[f"{isa}{int8}" for isa in ISAS for int8 in ("", "-int8")])
def load_exact(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Load:
    """A variant with bf16 or int8 weights."""
    isa, _, int8 = request.param.partition("-")
    quantize = Quantize.INT8 if int8 else Quantize.NONE
    return functools.partial(load_native, monkeypatch, isa, quantize=quantize)


def random_job(chance: random.Random) -> Job:
    """Prompts of three kinds that begin alike at many lengths, some of them repetitive."""
    kind = chance.randrange(3)
    words = prompt(9, kind) * 40 if kind else prompt(CONTEXT, 77)
    length = chance.choice((1, 20, 100, 127, 128, 129, 200, 256, 270))
    ending = tuple(chance.randrange(VOCAB) for _ in range(chance.choice((0, 0, 2))))
    greedy = chance.random() < 0.5
    plain = SamplingParams(temperature=0.0, logit_bias=FEW_WORDS)
    params = (
        plain
        if greedy
        else SamplingParams(
            temperature=chance.choice((0.3, 0.9)),
            top_p=chance.choice((1.0, 0.9)),
            repetition_penalty=chance.choice((1.0, 1.2)),
            frequency_penalty=chance.choice((0.0, 0.3)),
            logit_bias=chance.choice(((), FEW_WORDS)),
            seed=chance.getrandbits(64),
        )
    )
    return Job((*words[:length], *ending), chance.choice((1, 8, 60, 120)), params, chance.choice((0, 0, 5)))


def planner(model: LoadedModel, *, slots: int, blocks: int, drafts_max: int) -> Planner:
    return Planner(
        slots=slots,
        context=CONTEXT,
        step_tokens_max=96,
        blocks=blocks,
        drafts_max=drafts_max,
        long_from=model.config.long_from,
    )


def alone(model: LoadedModel, job: Job) -> tuple[int, ...]:
    """The text without neighbours, drafts and reuse."""
    plans = planner(model, slots=1, blocks=4, drafts_max=0)
    plans.add(job.sequence("alone"))
    tokens: list[int] = []
    while plan := plans.plan():
        for outcome in plans.commit(plan, model.runner.run(plan), 0.01):
            tokens += outcome.token_ids
    return tuple(tokens)


class Schedule:
    """Jobs come, are cancelled and run together, by one seed."""

    def __init__(self, model: LoadedModel, seed: int) -> None:
        self.model = model
        self.chance = random.Random(seed)
        jobs = [random_job(self.chance) for _ in range(12)]
        self.jobs = [(job, alone(model, job)) for job in jobs]  # before the others' positions are in the cache
        self.planner = planner(model, slots=4, blocks=self.chance.choice((4, 5, 6)), drafts_max=7)
        self.texts: dict[str, list[int]] = {}
        self.expected: dict[str, tuple[int, ...]] = {}
        self.finished = 0

    def run(self) -> None:
        """All of them, to their ends."""
        for job, text in self.jobs:
            self.add(job, text)
            for _ in range(self.chance.choice((0, 0, 1, 5, 20))):
                self.step()
            if self.chance.random() < 0.15 and self.texts:
                self.cancel(self.chance.choice(sorted(self.texts)))
        while self.planner.live:
            self.step()

    def add(self, job: Job, text: tuple[int, ...]) -> None:
        key = f"job{len(self.expected)}"
        resumed = text[: min(job.resumed, len(text) - 1)] if text else ()
        self.expected[key] = text
        self.texts[key] = list(resumed)
        assert self.planner.add(job.sequence(key, resumed)) is None

    def cancel(self, key: str) -> None:
        self.planner.cancel(key)
        text = self.texts.pop(key)
        assert tuple(text) == self.expected[key][: len(text)]

    def step(self) -> None:
        plan = self.planner.plan()
        if not plan:
            return
        seconds = 0.001 * (1 + plan.token_count)
        for outcome in self.planner.commit(plan, self.model.runner.run(plan), seconds):
            self.texts[outcome.key] += outcome.token_ids
            if outcome.stop_reason is not None:
                assert outcome.stop_reason in (StopReason.EOS, StopReason.MAX_TOKENS)
                assert tuple(self.texts.pop(outcome.key)) == self.expected[outcome.key], outcome.key
                self.finished += 1

    @property
    def blocks_leaked(self) -> int:
        """Blocks that neither are free nor become so."""
        cache = self.planner.cache
        cache.tree.clear()
        return cache.pool.capacity - cache.pool.free


@pytest.mark.parametrize(("name", "threads"), [("llama3", 2), ("qwen2_window", 1), ("phi3_long", 1)])
def test_a_text_is_the_same_in_any_schedule(
    name: str, threads: int, bf16_directories: Callable[[str], Path], load_exact: Load
) -> None:
    """Every text that ends is the one it is alone, no block leaks, and everything that may go wrong was tried."""
    chance = random.Random(1)
    active = lambda threads: chance.randint(1, threads)  # noqa: E731
    model = load_exact(bf16_directories(name), slots=4, threads=threads, active=active)
    assert model.capabilities.row_invariant and model.drafts_max == 7
    seen: Counter[str] = Counter()
    for seed in range(SEEDS):
        schedule = Schedule(model, seed)
        schedule.run()
        counts = schedule.planner.counts
        seen.update(finished=schedule.finished, preempted=counts.preempted, evicted=counts.evicted)
        seen.update(accepted=counts.accepted, refused=counts.drafted - counts.accepted)
        seen.update(reused=counts.prompt_tokens_reused)
        assert schedule.blocks_leaked == 0, f"seed {seed}"
    assert all(seen[what] for what in ("finished", "preempted", "evicted", "accepted", "refused", "reused")), seen


@pytest.mark.parametrize("name", ["llama3", "qwen3"])
def test_any_number_of_threads_gives_the_same_bits(
    name: str, bf16_directories: Callable[[str], Path], load_exact: Load
) -> None:
    """One to four of four threads, on rows of several sequences at once."""
    active = 1
    model = load_exact(bf16_directories(name), threads=4, active=lambda threads: active)
    ids, other = prompt(200), prompt(60, 5)
    seen = []
    for active in (1, 2, 3, 4, 1):  # noqa: B007  (the model asks for it)
        logits(model.runner, row(ids, 0, 190, (0, 1), draws=0), row(other, 0, 59, (2,), draws=0))
        seen.append(logits(model.runner, row(other, 59, 60, (2,)), row(ids, 190, 200, (0, 1), draws=9)).tolist())
    assert all(one == seen[0] for one in seen)


def test_an_interrupted_step_leaves_no_trace(write_model: Callable[..., Path], load_exact: Load) -> None:
    """Steps cut off anywhere and run again draw what uninterrupted ones draw."""
    model = load_exact(write_model("llama3", dtype=torch.bfloat16, num_hidden_layers=16))
    ids = prompt(300)
    draws = (Draw(SamplingParams(temperature=0.8, seed=4), 0),)

    def parts(blocks: tuple[int, ...]) -> list[StepPlan]:
        return [
            StepPlan((Row("a", start, ids[start : start + 60], draws, blocks[: -(-(start + 60) // 128)]),))
            for start in range(0, 300, 60)
        ]

    expected = [model.runner.run(plan) for plan in parts((0, 1, 2))]
    pestering, over = threading.Event(), threading.Event()

    def pester() -> None:
        while not over.is_set():
            if pestering.wait(1.0):
                model.runner.interrupt()
                over.wait(0.0001)

    thread = threading.Thread(target=pester)
    thread.start()
    interruptions = 0
    for attempt in range(20):
        for plan, drawn in zip(parts((5, 3 + attempt % 2, 6)), expected, strict=True):
            pestering.set()
            try:
                got = model.runner.run(plan)
            except Interrupted:
                interruptions += 1
                pestering.clear()
                got = model.runner.run(plan)
            assert got == drawn
    over.set()
    pestering.set()
    thread.join()
    assert interruptions
