"""Runs a StepPlan with torch: one forward pass over all its rows, then a draw for each position that asks for one."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

import torch

from llorch.batching.blocks import BLOCK_POSITIONS, blocks_for
from llorch.batching.plan import Drawn, Row, StepPlan
from llorch.model.config import ModelConfig
from llorch.model.graph.attention import EXACT, FUSED, Span
from llorch.model.graph.decoder import Batch, Decoder
from llorch.model.graph.kv_cache import KvCache
from llorch.model.graph.sampler import Sampler
from llorch.model.graph.weights import read_weights
from llorch.model.loaded import Dtype
from llorch.model.memory import Room
from llorch.model.recipe import Recipe


class Runner:
    """The only user of the decoder, from one thread at a time. It computes with `threads` threads.

    `promises_row_invariance`: its attention does; whether the whole model keeps it is tried while loading.
    """

    def __init__(self, decoder: Decoder, cache: KvCache, sampler: Sampler, threads: int) -> None:
        self.promises_row_invariance = decoder.attention.row_invariant
        self._decoder = decoder
        self._cache = cache
        self._sampler = sampler
        self._threads = threads
        self._caller: int | None = None

    @property
    def kv_resident_bytes(self) -> int:
        """Cache memory in use."""
        return self._cache.resident_bytes

    def run(self, plan: StepPlan) -> list[tuple[Drawn, ...]]:
        """Carry out the copies, compute the rows, and draw: per row, one token for each of its `draws`."""
        assert plan.rows
        for copy in plan.copies:
            self._cache.copy(copy)
        logits = self.logits(plan.rows)
        drawn = iter(self._sampler.draw(logits, [draw for row in plan.rows for draw in row.draws]))
        return [tuple(next(drawn) for _ in row.draws) for row in plan.rows]

    def logits(self, rows: tuple[Row, ...]) -> torch.Tensor:
        """Logits after each position that has a draw, [draws of all rows, vocab] fp32."""
        self._adopt_thread()
        return self._decoder.forward(self._batch(rows))

    def interrupt(self) -> None:
        """Nothing: a pass of torch cannot be stopped half-way."""

    def close(self) -> None:
        """Nothing: the memory goes with the object."""

    def _batch(self, rows: tuple[Row, ...]) -> Batch:
        token_ids: list[int] = []
        positions: list[int] = []
        places: list[int] = []
        stretched: list[bool] = []
        spans: list[Span] = []
        wanted: list[int] = []
        for row in rows:
            blocks = row.blocks[: blocks_for(row.positions.stop)]
            self._cache.touch(blocks)
            spans.append(Span(blocks, row.start, len(token_ids), len(row.token_ids)))
            token_ids += row.token_ids
            positions += row.positions
            places += [blocks[at // BLOCK_POSITIONS] * BLOCK_POSITIONS + at % BLOCK_POSITIONS for at in row.positions]
            stretched += [row.stretch] * len(row.token_ids)
            wanted += range(len(token_ids) - len(row.draws), len(token_ids))
        as_tensor = functools.partial(torch.tensor, dtype=torch.int64)
        return Batch(
            as_tensor(token_ids),
            as_tensor(positions),
            torch.tensor(stretched) if any(stretched) else None,
            as_tensor(places),
            tuple(spans),
            as_tensor(wanted),
        )

    def _adopt_thread(self) -> None:
        """OpenMP keeps the number of threads per calling thread; a oneDNN matmul first thing in a new one takes all."""
        caller = threading.get_ident()
        if caller != self._caller:
            torch.set_num_threads(self._threads)
            self._caller = caller


def load(
    config: ModelConfig,
    recipe: Recipe,
    *,
    dtype: Dtype,
    room: Room,
    threads: int,
    progress: Callable[[float], None],
) -> Runner:
    """A runner with the weights of `recipe` in `dtype` (not AUTO); `progress` gets the share read, up to 1.

    Raises InvalidModel when a shard cannot be read.
    """
    torch.set_num_threads(threads)
    torch_dtype = torch.bfloat16 if dtype is Dtype.BF16 else torch.float32
    weights = read_weights(recipe, torch_dtype, progress)
    cache = KvCache(config, blocks=room.blocks, dtype=torch_dtype)
    attention = EXACT if dtype is Dtype.FP32 else FUSED
    decoder = Decoder(config, weights, cache, attention, context=room.context)
    return Runner(decoder, cache, Sampler(config.vocab_size), threads)
