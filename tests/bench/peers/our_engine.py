"""llorch's engine in a child process: a loaded model whose runner is given step plans, without a planner.

Every sequence owns the same number of neighbouring cache blocks. The cache is filled to the longest context once; each
measurement starts over at the context it is asked for.
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path
from time import perf_counter
from typing import Any

from peers.child import serve

from llorch import model
from llorch.base.errors import LlorchError
from llorch.batching.blocks import BLOCK_POSITIONS, blocks_for
from llorch.batching.plan import Copy, Draw, Row, StepPlan
from llorch.batching.sequence import SamplingParams
from llorch.host import runtime
from llorch.model.kernels.runner import Runner as NativeRunner

GREEDY = SamplingParams(temperature=0.0, seed=1)
CHUNK = 512
WARM_UP_STEPS = 2


class Engine:
    """A model and the blocks of its sequences."""

    def __init__(self, loaded: model.LoadedModel, load_s: float) -> None:
        self.loaded = loaded
        self.load_s = load_s
        self.blocks = blocks_for(loaded.context_length)
        self.filled = 0
        self.chance = random.Random(1)

    def row(self, sequence: int, start: int, tokens: int, *, drawing: bool) -> Row:
        """Random tokens of a sequence from a position on."""
        token_ids = tuple(self.chance.randrange(self.loaded.config.vocab_size) for _ in range(tokens))
        first = sequence * self.blocks
        blocks = tuple(range(first, first + blocks_for(start + tokens)))
        draws = (Draw(GREEDY, 0),) if drawing else ()
        return Row(f"bench-{sequence}", start, token_ids, draws, blocks)

    def fill(self, positions: int) -> None:
        """Give every sequence keys and values up to a position: computed for the first, copied to the others."""
        if positions <= self.filled:
            return
        for start in range(self.filled, positions, CHUNK):
            tokens = min(CHUNK, positions - start)
            self.loaded.runner.run(StepPlan((self.row(0, start, tokens, drawing=False),)))
        copies = tuple(
            Copy(block, sequence * self.blocks + block, BLOCK_POSITIONS)
            for sequence in range(1, self.loaded.slots)
            for block in range(blocks_for(positions))
        )
        self.loaded.runner.run(StepPlan((self.row(0, positions - 1, 1, drawing=True),), copies))
        self.filled = positions

    def decode(self, batch: int, context: int, steps: int) -> dict[str, Any]:
        """Tokens a second of `steps` steps with a drawn token for each of `batch` sequences."""
        self.fill(context)
        began = 0.0
        for step in range(-WARM_UP_STEPS, steps):
            position = context + max(0, step)
            plan = StepPlan(tuple(self.row(sequence, position, 1, drawing=True) for sequence in range(batch)))
            if step == 0:
                began = perf_counter()
            self.loaded.runner.run(plan)
        return {"tokens_per_s": batch * steps / (perf_counter() - began)}

    def prefill(self, tokens: int) -> dict[str, Any]:
        """Tokens a second of a prompt computed in one pass, its first token drawn."""
        plan = StepPlan((self.row(0, 0, tokens, drawing=True),))
        began = perf_counter()
        self.loaded.runner.run(plan)
        return {"tokens_per_s": tokens / (perf_counter() - began)}

    def footprint(self) -> dict[str, Any]:
        """Seconds that loading took, bytes of weights, and this process's memory: at its highest, and now."""
        status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        kib = {line.partition(":")[0]: line.split()[1] for line in status if line.startswith("Vm")}
        weights = self.loaded.weights_bytes
        if isinstance(self.loaded.runner, NativeRunner):  # what the library holds: scales of int8 weights included
            weights = self.loaded.runner._library.llorch_weights_bytes(self.loaded.runner._engine)
        return {
            "load_s": self.load_s,
            "weights_bytes": weights,
            "peak_mib": int(kib["VmHWM"]) / 1024,
            "resident_mib": int(kib["VmRSS"]) / 1024,
        }

    def likeliest(self, prompt: list[int], text: list[int]) -> dict[str, Any]:
        """The likeliest token after the prompt, and after every token of the text but the last."""
        whole = (*prompt, *text[:-1])
        draws = tuple(Draw(GREEDY, index) for index in range(len(text)))
        ((*drawn,),) = self.loaded.runner.run(
            StepPlan((Row("bench-0", 0, whole, draws, tuple(range(blocks_for(len(whole))))),))
        )
        return {"tokens": [one.token_id for one in drawn]}


def _load(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    began = perf_counter()
    try:
        loaded = model.load_model(
            args.model,
            kernels=model.Kernels(args.kernels),
            native=model.NativeKernels(runtime.kernels_dir(), os.environ.get("LLORCH_CPU_ISA")),
            quantize=model.Quantize(args.quantize),
            dtype=model.Dtype(args.dtype),
            slots=args.slots,
            context=args.context,
            threads=args.threads,
        )
    except LlorchError as problem:
        raise ValueError(problem.message) from None
    load_s = perf_counter() - began
    if loaded.kv_blocks < loaded.slots * blocks_for(loaded.context_length):
        raise ValueError(f"memory has no room for {loaded.slots} sequences of {loaded.context_length} positions")
    engine = Engine(loaded, load_s)
    engine.prefill(64)
    has = loaded.capabilities
    facts = {"kernels": has.kernels, "isa": has.isa or "-", "dtype": has.dtype, "quantize": has.quantize}
    measures = (engine.decode, engine.prefill, engine.likeliest, engine.footprint)
    return facts, {measure.__name__: measure for measure in measures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--kernels", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quantize", default="none")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--context", type=int, default=2176)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    serve(lambda: _load(args))


if __name__ == "__main__":
    main()
