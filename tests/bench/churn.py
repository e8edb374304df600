"""1,000 random joins, leaves and cancels under a small KV memory: does every text stay the one it would be alone?

The real planner and the native runner, on the demo model: prompts that begin alike, repetitive texts, sampling with
penalties, resumed texts. Prints key=value: `cpu` first; README.md beside this file says what each key means. The
schedule follows from --seed alone. Exit code 1 when a text diverged or a block leaked.
Run: ./install.sh bench churn [--joins N] [--seed N] [--format int8] [--model DIR]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import monotonic

from peers import held_out, machine
from peers.progress import say

from llorch import model
from llorch.base.errors import HostError, LlorchError
from llorch.batching.blocks import BLOCK_POSITIONS, blocks_for
from llorch.batching.planner import Planner
from llorch.batching.sequence import SamplingParams, Sequence, StopReason
from llorch.host import runtime
from llorch.model import LoadedModel
from llorch.model.config import read_config
from llorch.workerd.load import planner_of

SLOTS = 8
CONTEXT = 512
BLOCKS = 8  # of 32 that eight whole contexts would take
BF16_BYTES = 2
LIVE_MAX = 2 * SLOTS
STEMS = 5
STEM_TOKENS = 320
LENGTHS = (1, 20, 100, 127, 128, 129, 200, 255, 256, 257, 300)
LIMITS = (1, 8, 40, 100, 160)
FAVOURED_BIAS = 8.0
"""On a few tokens: texts then repeat themselves, so that drafts are right now and then."""
SECONDS_MAX = 900


@dataclass(frozen=True, slots=True)
class Job:
    """A text to be made; of `resumed` tokens, an earlier worker is pretended to have drawn them."""

    prompt_ids: tuple[int, ...]
    max_tokens: int
    params: SamplingParams
    resumed: int

    def sequence(self, key: str, eos_ids: frozenset[int], resumed_ids: tuple[int, ...] = ()) -> Sequence:
        """Ready to be added."""
        return Sequence(key, self.prompt_ids, self.max_tokens, self.params, eos_ids, resumed_ids)


class Jobs:
    """Random jobs; many of them are alike in their prompts, and some are the same."""

    def __init__(self, loaded: LoadedModel, chance: Random) -> None:
        self.chance = chance
        stories = held_out.texts(loaded.tokenizer, STEMS * STEM_TOKENS)
        ids = [token for story in stories for token in story.ids]
        self.stems = [tuple(ids[n * STEM_TOKENS : (n + 1) * STEM_TOKENS]) for n in range(STEMS)]
        self.stems[-1] = (self.stems[-1][:12] * STEM_TOKENS)[:STEM_TOKENS]
        self.favoured = tuple((token, FAVOURED_BIAS) for token in self.stems[0][20:23])
        self.vocab = loaded.config.vocab_size

    def job(self) -> Job:
        """The next one."""
        chance = self.chance
        stem = chance.choice(self.stems)[: chance.choice(LENGTHS)]
        ending = tuple(chance.randrange(self.vocab) for _ in range(chance.choice((0, 0, 0, 3))))
        return Job((*stem, *ending), chance.choice(LIMITS), self._params(), chance.choice((0, 0, 0, 5)))

    def _params(self) -> SamplingParams:
        chance = self.chance
        bias = chance.choice(((), self.favoured))
        if chance.random() < 0.4:
            return SamplingParams(temperature=0.0, logit_bias=bias, repetition_penalty=chance.choice((1.0, 1.0, 1.1)))
        return SamplingParams(
            temperature=chance.choice((0.3, 0.7, 1.0)),
            top_k=chance.choice((0, 20)),
            top_p=chance.choice((1.0, 0.9)),
            repetition_penalty=chance.choice((1.0, 1.0, 1.2)),
            presence_penalty=chance.choice((0.0, 0.0, 0.4)),
            frequency_penalty=chance.choice((0.0, 0.0, 0.3)),
            logit_bias=bias,
            seed=chance.choice((chance.getrandbits(64), 7)),
        )


@dataclass(frozen=True, slots=True)
class Text:
    """What a job gives when it is alone."""

    token_ids: tuple[int, ...]
    reason: StopReason


class Solo:
    """Every job alone, with memory enough, without drafts and without anything computed before; the same once only."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._texts: dict[tuple[tuple[int, ...], int, SamplingParams], Text] = {}

    def text(self, job: Job) -> Text:
        """Its text, and why it ends."""
        key = (job.prompt_ids, job.max_tokens, job.params)
        if key not in self._texts:
            self._texts[key] = self._run(job)
        return self._texts[key]

    def _run(self, job: Job) -> Text:
        loaded = self._loaded
        planner = Planner(
            slots=1,
            context=CONTEXT,
            step_tokens_max=loaded.step_tokens,
            drafts_max=0,
            long_from=loaded.config.long_from,
        )
        planner.add(job.sequence("alone", loaded.eos_ids))
        tokens: list[int] = []
        while plan := planner.plan():
            for outcome in planner.commit(plan, loaded.runner.run(plan), 0.001):
                tokens += outcome.token_ids
                if outcome.stop_reason is not None:
                    return Text(tuple(tokens), outcome.stop_reason)
        raise AssertionError("a sequence has no end")


class Churn:
    """Jobs join, leave, are cancelled and run together, by one seed."""

    def __init__(self, loaded: LoadedModel, solo: Solo, seed: int) -> None:
        self.loaded = loaded
        self.solo = solo
        self.chance = Random(seed)
        self.jobs = Jobs(loaded, self.chance)
        self.seen: Counter[str] = Counter()
        self.planner = planner_of(loaded)
        self._texts: dict[str, list[int]] = {}
        self._expected: dict[str, Text] = {}

    def run(self, joins: int) -> None:
        """All of them, to their ends. Raises HostError when that takes too long."""
        give_up_at = monotonic() + SECONDS_MAX
        while self.seen["joins"] < joins or self.planner.live:
            if monotonic() > give_up_at:
                raise HostError(f"only {self.seen['joins']} of {joins} joined within {SECONDS_MAX} s")
            while self.seen["joins"] < joins and self.planner.live < self.chance.randint(1, LIVE_MAX):
                self._join()
            draw = self.chance.random()
            if draw < 0.02:
                self._leave(StopReason.CANCELLED)
            elif draw < 0.03:
                self._leave(StopReason.STOP_SEQUENCE)
            self._step()

    def blocks_leaked(self) -> int:
        """Blocks that are not free when nobody is there and nothing is kept."""
        cache = self.planner.cache
        cache.tree.clear()
        return cache.pool.capacity - cache.pool.free

    def _join(self) -> None:
        job = self.jobs.job()
        key = f"job{self.seen['joins']}"
        text = self.solo.text(job)
        resumed = text.token_ids[: min(job.resumed, max(0, len(text.token_ids) - 1))]
        self._expected[key] = text
        self._texts[key] = list(resumed)
        self.planner.add(job.sequence(key, self.loaded.eos_ids, resumed))
        self.seen["joins"] += 1
        self.seen["resumed"] += bool(resumed)
        if self.seen["joins"] % 100 == 0:
            say(f"{self.seen['joins']} joined, {self.seen['finished']} finished, {self.planner.preempted} preemptions")

    def _leave(self, reason: StopReason) -> None:
        """Somebody is cancelled, or ends for a reason that the planner cannot see."""
        if not self._texts:
            return
        key = self.chance.choice(sorted(self._texts))
        self.planner.finish(key, reason)
        self.seen["cancels" if reason is StopReason.CANCELLED else "leaves"] += 1
        text = tuple(self._texts.pop(key))
        self._judge(key, text == self._expected.pop(key).token_ids[: len(text)])

    def _step(self) -> None:
        plan = self.planner.plan()
        if not plan:
            return
        seconds = 0.0005 * (1 + plan.token_count / 16)  # no clock: the seed alone decides what happens
        self.seen["steps"] += 1
        for outcome in self.planner.commit(plan, self.loaded.runner.run(plan), seconds):
            self._texts[outcome.key] += outcome.token_ids
            self.seen["tokens"] += len(outcome.token_ids)
            if outcome.stop_reason is not None:
                text = Text(tuple(self._texts.pop(outcome.key)), outcome.stop_reason)
                self.seen["finished"] += 1
                self._judge(outcome.key, text == self._expected.pop(outcome.key))

    def _judge(self, key: str, same: bool) -> None:
        if not same:
            self.seen["diverged"] += 1
            say(f"{key} is not the text it is alone")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./install.sh bench churn", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--joins", type=int, default=1000, metavar="N", help="default 1000")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="default 1")
    parser.add_argument("--format", choices=("bf16", "int8"), default="bf16")
    parser.add_argument("--model", type=Path, default=held_out.DEMO, metavar="DIR", help="default: the demo model")
    parser.add_argument("--threads", type=int, metavar="N", help="default as a worker would choose")
    return parser.parse_args()


def _load(args: argparse.Namespace, slots: int, blocks: int) -> LoadedModel:
    config = read_config(args.model)
    return model.load_model(
        args.model,
        kernels=model.Kernels.NATIVE,
        native=model.NativeKernels(runtime.kernels_dir(), os.environ.get("LLORCH_CPU_ISA")),
        quantize=model.Quantize.INT8 if args.format == "int8" else model.Quantize.NONE,
        slots=slots,
        context=CONTEXT,
        threads=args.threads,
        kv_bytes=blocks * BLOCK_POSITIONS * config.kv_values_per_position * BF16_BYTES,
    )


def _measure(args: argparse.Namespace) -> bool:
    began = monotonic()
    loaded = _load(args, SLOTS, BLOCKS)
    print(f"cpu={machine.cpu_line(loaded.threads)}", flush=True)
    has = loaded.capabilities
    print(f"model={args.model.resolve().name} {has.isa} {args.format} slots={SLOTS} blocks={loaded.kv_blocks}")
    churn = Churn(loaded, Solo(_load(args, 1, blocks_for(CONTEXT))), args.seed)
    churn.run(args.joins)
    seen, counts = churn.seen, churn.planner.counts
    leaked = churn.blocks_leaked()
    for key in ("joins", "finished", "cancels", "leaves", "resumed", "steps", "tokens"):
        print(f"{key}={seen[key]}")
    print(f"preemptions={counts.preempted}\nevicted={counts.evicted}")
    print(f"drafted={counts.drafted}\naccepted={counts.accepted}")
    print(f"prefix_reused_share={counts.prompt_tokens_reused / max(1, counts.prompt_tokens_looked_up):.3f}")
    print(f"diverged={seen['diverged']}\nblocks_leaked={leaked}\nseconds={monotonic() - began:.1f}")
    return not (seen["diverged"] or leaked)


def main() -> int:
    """The exit code."""
    try:
        return 0 if _measure(_arguments()) else 1
    except LlorchError as problem:
        print(f"llorch: {problem.message}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
