"""The decoder: one forward pass over rows of any sequences, whose keys and values go into the cache on the way."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own customary name)
from torch import Tensor

from llorch.model.attention import Attention, Span, SpanView
from llorch.model.config import ModelConfig
from llorch.model.kv_cache import KvCache
from llorch.model.layers import Rotary, rms_norm, swiglu
from llorch.model.weights import Weights


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one pass: token_ids, positions and slots [rows] int64; `wanted` are the rows that need logits."""

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    spans: tuple[Span, ...]
    wanted: Tensor


class Decoder:
    """Weights, rotary tables and the cache they fill."""

    def __init__(self, config: ModelConfig, weights: Weights, cache: KvCache, attention: Attention) -> None:
        self._config = config
        self._weights = weights
        self._cache = cache
        self._attention = attention
        self._dtype = weights.norm.dtype
        self._rotary = Rotary(config.rope, config.head_dim, cache.positions, self._dtype)

    @torch.inference_mode()
    def forward(self, batch: Batch) -> Tensor:
        """Logits of the wanted rows, [wanted, vocab] fp32; keys and values of all rows are in the cache afterwards."""
        config, weights = self._config, self._weights
        x = F.embedding(batch.token_ids, weights.embedding)
        turn = self._rotary.at(batch.positions)
        stored_at = self._cache.row_indexes(batch.slots, batch.positions)
        cut = self._attention.cut
        views = [SpanView(part, self._dtype) for span in batch.spans for part in cut(span)]
        for index, layer in enumerate(weights.layers):
            qkv = layer.qkv(rms_norm(x, layer.attention_norm, config.norm_eps))
            x = x + layer.output(self._mix(index, layer.window, qkv, turn, stored_at, views))
            x = x + layer.down(swiglu(layer.gate_up(rms_norm(x, layer.mlp_norm, config.norm_eps))))
        if not len(batch.wanted):
            return torch.empty(0, config.vocab_size)
        return weights.head(rms_norm(x[batch.wanted], weights.norm, config.norm_eps)).float()

    def _mix(
        self,
        index: int,
        window: int | None,
        qkv: Tensor,
        turn: tuple[Tensor, Tensor],
        stored_at: Tensor,
        views: list[SpanView],
    ) -> Tensor:
        """qkv [rows, q | k | v] -> [rows, heads * head_dim], of which all rows belong to a span."""
        config = self._config
        heads_of_rows = qkv.view(qkv.shape[0], -1, config.head_dim)
        self._rotary.rotate_(heads_of_rows[:, : config.heads + config.kv_heads], *turn)
        self._cache.store(index, stored_at, heads_of_rows[:, config.heads :])
        q = heads_of_rows[:, : config.heads]
        parts = []
        for view in views:
            rows = q[view.span.first : view.span.first + view.span.count]
            parts.append(self._attention.attend(view, rows, self._cache, index, window))
        out = parts[0] if len(parts) == 1 else torch.cat(parts)
        return out.reshape(qkv.shape[0], -1)
