"""Runs a StepPlan on the native kernels: one call computes all rows, another draws the tokens."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Iterable
from itertools import chain

from llorch.batching.blocks import BLOCK_POSITIONS, blocks_for
from llorch.batching.plan import Draw, Drawn, Interrupted, Row, StepPlan
from llorch.model.checkpoint import Checkpoint
from llorch.model.kernels.library import Batch, DrawBatch, DrawnToken, DrawSpec, Shape, Span


def _ints(values: Iterable[int]) -> ctypes.Array[ctypes.c_int32]:
    """An int32 array of C, at least one long."""
    held = array("i", values)
    if not held:
        held.append(0)
    return (ctypes.c_int32 * len(held)).from_buffer(held)


class Runner:
    """The only user of one native engine, from one thread at a time; only `interrupt` may come from another.

    `threads()` is asked before each step how many may compute. The checkpoint stays mapped: rows of the embedding are
    read from it, so that it is not in memory twice.
    """

    promises_row_invariance = True

    def __init__(
        self, library: ctypes.CDLL, engine: int, shape: Shape, checkpoint: Checkpoint, threads: Callable[[], int]
    ) -> None:
        self._library = library
        self._engine: int | None = engine
        self._vocab = shape.vocab
        self._rows_max = shape.rows_max
        self._blocks_max = shape.blocks
        self._checkpoint = checkpoint
        self._threads = threads
        self._block_bytes: int = library.llorch_block_bytes(engine)
        self._blocks_touched: set[int] = set()

    @property
    def kv_resident_bytes(self) -> int:
        """Cache memory in use."""
        return len(self._blocks_touched) * self._block_bytes

    def run(self, plan: StepPlan) -> list[tuple[Drawn, ...]]:
        """See `llorch.model.runner.Runner`. Raises Interrupted."""
        assert plan.rows
        threads = self._threads()
        self._library.llorch_interrupt(self._engine, 0)
        draws = [draw for row in plan.rows for draw in row.draws]
        if not self._forward(plan, threads):
            raise Interrupted
        drawn = iter(self._draw(draws, threads) if draws else ())
        return [tuple(next(drawn) for _ in row.draws) for row in plan.rows]

    def logits(self, rows: tuple[Row, ...]) -> memoryview[float]:
        """[draws of all rows, vocab] fp32."""
        plan = StepPlan(rows)
        self._library.llorch_interrupt(self._engine, 0)
        self._forward(plan, self._threads())
        size = self._vocab * ctypes.sizeof(ctypes.c_float)
        count = sum(len(row.draws) for row in rows)
        copied = b"".join(
            ctypes.string_at(self._library.llorch_logits(self._engine, index), size) for index in range(count)
        )
        return memoryview(copied).cast("B").cast("f", (count, self._vocab))

    def interrupt(self) -> None:
        """A `run` in progress ends after the layer it is at; a stale call does nothing to the next run."""
        if self._engine is not None:
            self._library.llorch_interrupt(self._engine, 1)

    def close(self) -> None:
        """Give the memory back."""
        if self._engine is not None:
            self._library.llorch_destroy(self._engine)
            self._engine = None
            self._checkpoint.close()

    def _forward(self, plan: StepPlan, threads: int) -> bool:
        """Compute all rows; logits of the draws are then in the engine. False: interrupted."""
        rows = plan.rows
        count = plan.token_count
        assert self._engine is not None and count <= self._rows_max
        spans = (Span * len(rows))()
        draw_rows: list[int] = []
        first = blocks_at = 0
        for span, row in zip(spans, rows, strict=True):
            span.start, span.count = row.start, len(row.token_ids)
            span.blocks_at, span.frequency_set = blocks_at, int(row.stretch)
            first += len(row.token_ids)
            draw_rows += range(first - len(row.draws), first)
            blocks_at += len(row.blocks)
            assert len(row.blocks) >= blocks_for(row.positions.stop)
            self._blocks_touched.update(row.blocks[row.start // BLOCK_POSITIONS :])
        blocks = _ints(chain.from_iterable(row.blocks for row in rows))
        assert min(blocks) >= 0 and max(blocks) < self._blocks_max
        copies = _ints(chain.from_iterable((copy.source, copy.target) for copy in plan.copies))
        assert min(copies) >= 0 and max(copies) < self._blocks_max
        tokens = _ints(chain.from_iterable(row.token_ids for row in rows))
        assert min(tokens) >= 0 and max(tokens) < self._vocab
        batch = Batch(
            count, len(rows), len(draw_rows), len(plan.copies), tokens, spans, blocks, _ints(draw_rows), copies
        )
        return bool(self._library.llorch_forward(self._engine, ctypes.byref(batch), threads))

    def _draw(self, draws: list[Draw], threads: int) -> list[Drawn]:
        specs = (DrawSpec * len(draws))()
        history = array("i")
        bias_ids, bias_values = array("i"), array("f")
        for spec, draw in zip(specs, draws, strict=True):
            params = draw.params
            spec.temperature, spec.top_p, spec.min_p = params.temperature, params.top_p, params.min_p
            spec.repetition, spec.presence = params.repetition_penalty, params.presence_penalty
            spec.frequency, spec.top_k = params.frequency_penalty, params.top_k
            spec.logprobs = -1 if params.logprobs is None else params.logprobs
            spec.seed, spec.index = params.seed, draw.index
            spec.history_at, spec.history_count = len(history), len(draw.history)
            spec.prompt_length = min(draw.prompt_length, len(draw.history))
            spec.bias_at, spec.bias_count = len(bias_ids), len(params.logit_bias)
            history.extend(draw.history)
            bias_ids.extend(token for token, _ in params.logit_bias)
            bias_values.extend(value for _, value in params.logit_bias)
        if not bias_values:
            bias_values.append(0.0)
        values = (ctypes.c_float * len(bias_values)).from_buffer(bias_values)
        batch = DrawBatch(specs, _ints(history), _ints(bias_ids), values)
        out = (DrawnToken * len(draws))()
        self._library.llorch_draw(self._engine, ctypes.byref(batch), len(draws), out, threads)
        return [_drawn(token, draw) for token, draw in zip(out, draws, strict=True)]


def _drawn(token: DrawnToken, draw: Draw) -> Drawn:
    if draw.params.logprobs is None:
        return Drawn(token.token)
    count = token.top_count
    return Drawn(
        token.token,
        token.logprob,
        tuple(zip(token.top_ids[:count], token.top_logprobs[:count], strict=True)),
    )
