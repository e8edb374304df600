"""Runs a StepPlan: one forward pass over all its rows, then a draw for each row that asks for one."""

from __future__ import annotations

import functools
import threading

import torch

from llorch.batching.planner import Row, StepPlan
from llorch.model.attention import Span
from llorch.model.decoder import Batch, Decoder
from llorch.model.kv_cache import KvCache
from llorch.model.sampler import Sampler


class Runner:
    """The only user of the decoder, from one thread at a time. It computes with `threads` threads."""

    def __init__(self, decoder: Decoder, cache: KvCache, sampler: Sampler, threads: int) -> None:
        self._decoder = decoder
        self._cache = cache
        self._sampler = sampler
        self._threads = threads
        self._caller: int | None = None

    @property
    def kv_resident_bytes(self) -> int:
        """Cache memory in use."""
        return self._cache.resident_bytes

    def run(self, plan: StepPlan) -> list[int | None]:
        """The token drawn for each row, None where the row asked for none. Row for row what `commit` takes."""
        assert plan.rows
        tokens: list[int | None] = [None] * len(plan.rows)
        asking = [index for index, row in enumerate(plan.rows) if row.draw is not None]
        logits = self.logits(plan.rows)
        drawn = self._sampler.draw(logits, [row.draw for row in plan.rows if row.draw is not None])
        for index, token in zip(asking, drawn, strict=True):
            tokens[index] = token
        return tokens

    def logits(self, rows: tuple[Row, ...]) -> torch.Tensor:
        """Logits after the last position of each row that asks for a draw, [asking, vocab] fp32."""
        self._adopt_thread()
        token_ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        spans: list[Span] = []
        wanted: list[int] = []
        for row in rows:
            spans.append(Span(row.slot, row.start, len(token_ids), len(row.token_ids)))
            self._cache.touch(row.slot, row.positions.stop)
            token_ids += row.token_ids
            positions += row.positions
            slots += [row.slot] * len(row.token_ids)
            if row.draw is not None:
                wanted.append(len(token_ids) - 1)
        as_tensor = functools.partial(torch.tensor, dtype=torch.int64)
        batch = Batch(as_tensor(token_ids), as_tensor(positions), as_tensor(slots), tuple(spans), as_tensor(wanted))
        return self._decoder.forward(batch)

    def _adopt_thread(self) -> None:
        """OpenMP keeps the number of threads per calling thread; a oneDNN matmul first thing in a new one takes all."""
        caller = threading.get_ident()
        if caller != self._caller:
            torch.set_num_threads(self._threads)
            self._caller = caller
