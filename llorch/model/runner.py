"""What a runner is: the native kernels and the torch graph look the same from outside."""

from __future__ import annotations

from typing import Any, Protocol

from llorch.batching.plan import Drawn, Row, StepPlan


class Runner(Protocol):
    """Computes one step after the other, from one thread at a time; `interrupt` may come from any thread."""

    @property
    def promises_row_invariance(self) -> bool:
        """Is it made so that a row gets the same bits in any company? (On torch it is tried while loading besides.)"""
        ...

    @property
    def kv_resident_bytes(self) -> int:
        """Cache memory in use: it grows with the blocks used and is never given back."""
        ...

    def run(self, plan: StepPlan) -> list[tuple[Drawn, ...]]:
        """Carry out the copies, compute the rows, and draw: per row, one token for each of its `draws`."""
        ...

    def logits(self, rows: tuple[Row, ...]) -> Any:
        """Logits after each position that has a draw, [draws of all rows, vocab] fp32, something with `tolist`.

        For tests and for the trial of exactness while loading.
        """
        ...

    def interrupt(self) -> None:
        """Let a `run` in progress end early, where the runner can; what it returns then is to be thrown away."""
        ...

    def close(self) -> None:
        """Give the memory back; the runner is not used afterwards."""
        ...
