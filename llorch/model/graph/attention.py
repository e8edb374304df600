"""Grouped-query attention of one sequence's rows over its cache blocks, in two forms behind one type.

A *span* is consecutive rows of one sequence. `SpanView` holds what is the same for all layers of a pass. Both forms
take the keys and values of the span's blocks, [positions, 2 * kv_heads, head_dim], positions from 0.

`attend_exact` gives a row the same bits alone, in a chunk of any length and beside any neighbours: every matmul of a
row has the shape [group, head_dim] x [head_dim, width], where `width` follows from the row's position alone (whole
blocks of 128), and masked positions add exact zeros. `attend_fused` is torch's flash attention: faster for long
prompts, and its sums depend on the shape of the chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own customary name)
from torch import Tensor

from llorch.batching.blocks import BLOCK_POSITIONS


@dataclass(frozen=True, slots=True)
class Span:
    """`count` rows of a pass from row `first`: positions `start`, `start` + 1, ... of the sequence in `blocks`."""

    blocks: tuple[int, ...]
    start: int
    first: int
    count: int

    def split_at_blocks(self) -> list[Span]:
        """The same rows, cut so that no part crosses a block of 128 positions."""
        parts = []
        position = self.start
        end = self.start + self.count
        while position < end:
            stop = min(end, (position // BLOCK_POSITIONS + 1) * BLOCK_POSITIONS)
            parts.append(Span(self.blocks, position, self.first + position - self.start, stop - position))
            position = stop
        return parts

    def whole(self) -> list[Span]:
        """The same rows, not cut."""
        return [self]


class SpanView:
    """A span and its masks, made once a pass and used by all layers."""

    def __init__(self, span: Span, dtype: torch.dtype) -> None:
        self.span = span
        self.end = span.start + span.count
        self._dtype = dtype
        self._masks: dict[tuple[int, int, int | None], Tensor] = {}

    def mask(self, low: int, high: int, window: int | None) -> Tensor:
        """[rows, high - low]: 0 where a row may look at positions low..high, -inf where not."""
        key = (low, high, window)
        found = self._masks.get(key)
        if found is None:
            rows = torch.arange(self.span.start, self.end).unsqueeze(1)
            columns = torch.arange(low, high).unsqueeze(0)
            hidden = columns > rows
            if window is not None:
                hidden |= columns <= rows - window
            found = torch.zeros(hidden.shape, dtype=self._dtype).masked_fill_(hidden, -math.inf)
            self._masks[key] = found
        return found


def attend_exact(view: SpanView, q: Tensor, keys_values: Tensor, window: int | None) -> Tensor:
    """See the module. The span must not cross a block (`Span.split_at_blocks`)."""
    span = view.span
    width = (span.start // BLOCK_POSITIONS + 1) * BLOCK_POSITIONS
    kv_heads = keys_values.shape[1] // 2
    keys = keys_values[:width, :kv_heads].permute(1, 2, 0)
    values = keys_values[:width, kv_heads:].permute(1, 0, 2)
    masked_from = 0 if window is not None and window < view.end else width - BLOCK_POSITIONS
    mask = view.mask(masked_from, width, window).unsqueeze(1)
    rows, heads, head_dim = q.shape
    q = (q * head_dim**-0.5).view(rows, kv_heads, heads // kv_heads, head_dim)
    if rows == 1:
        return _weigh(q[0], keys, values, mask, masked_from).view(1, heads, head_dim)
    out = torch.empty_like(q)
    for head in range(kv_heads):
        keys_of_rows = keys[head].expand(rows, -1, -1)
        out[:, head] = _weigh(q[:, head], keys_of_rows, values[head].expand(rows, -1, -1), mask, masked_from)
    return out.view(rows, heads, head_dim)


def _weigh(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, masked_from: int) -> Tensor:
    """q [n, group, d], keys [n, d, width], values [n, width, d] -> [n, group, d]; the mask covers the last columns."""
    scores = torch.bmm(q, keys)
    scores[:, :, masked_from:].add_(mask)
    return torch.bmm(torch.softmax(scores, -1), values)


def attend_fused(view: SpanView, q: Tensor, keys_values: Tensor, window: int | None) -> Tensor:
    """See the module."""
    span = view.span
    low = 0 if window is None else max(0, span.start - window + 1)
    kv_heads = keys_values.shape[1] // 2
    keys = keys_values[low : view.end, :kv_heads].transpose(0, 1).unsqueeze(0)
    values = keys_values[low : view.end, kv_heads:].transpose(0, 1).unsqueeze(0)
    if span.count == 1:
        grouped = q.view(1, kv_heads, -1, q.shape[-1])
        return F.scaled_dot_product_attention(grouped, keys, values).reshape(q.shape)
    causal = low == span.start and (window is None or window >= view.end)
    mask = None if causal else view.mask(low, view.end, window)
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1).unsqueeze(0), keys, values, attn_mask=mask, is_causal=causal, enable_gqa=True
    )
    return out[0].transpose(0, 1)


@dataclass(frozen=True, slots=True)
class Attention:
    """A form of attention: `attend(view, q [rows, heads, head_dim], keys_values, window)` of q's shape, for the parts
    into which `cut` divides a span. `row_invariant`: see `attend_exact`.
    """

    attend: Callable[[SpanView, Tensor, Tensor, int | None], Tensor]
    cut: Callable[[Span], list[Span]]
    row_invariant: bool


EXACT = Attention(attend_exact, Span.split_at_blocks, row_invariant=True)
FUSED = Attention(attend_fused, Span.whole, row_invariant=False)
