"""The decoder: one forward pass over rows of any sequences, whose keys and values go into the cache on the way."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own customary name)
from torch import Tensor

from llorch.model.config import ModelConfig
from llorch.model.graph.attention import Attention, Span, SpanView
from llorch.model.graph.kv_cache import KvCache
from llorch.model.graph.layers import Rotary, rms_norm, swiglu
from llorch.model.graph.weights import Layer, Weights


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one pass: token_ids, positions and places in the cache [rows] int64, `stretched` [rows] bool or None
    where no row is; `wanted` are the rows that need logits.
    """

    token_ids: Tensor
    positions: Tensor
    stretched: Tensor | None
    places: Tensor
    spans: tuple[Span, ...]
    wanted: Tensor


@dataclass(frozen=True, slots=True)
class _Pass:
    """What is the same for all layers of a pass: cosines and sines, places, and each span's parts."""

    turn: tuple[Tensor, Tensor]
    places: Tensor
    spans: list[tuple[Span, list[SpanView]]]


class Decoder:
    """Weights, rotary tables for `context` positions and the cache they fill."""

    def __init__(
        self, config: ModelConfig, weights: Weights, cache: KvCache, attention: Attention, *, context: int
    ) -> None:
        self.attention = attention
        self._config = config
        self._weights = weights
        self._cache = cache
        self._dtype = weights.norm.dtype
        self._rotary = Rotary(config.rope, context, self._dtype)

    @torch.inference_mode()
    def forward(self, batch: Batch) -> Tensor:
        """Logits of the wanted rows, [wanted, vocab] fp32; keys and values of all rows are in the cache afterwards."""
        config, weights = self._config, self._weights
        x = F.embedding(batch.token_ids, weights.embedding)
        cut = self.attention.cut
        common = _Pass(
            self._rotary.at(batch.positions, batch.stretched),
            batch.places,
            [(span, [SpanView(part, self._dtype) for part in cut(span)]) for span in batch.spans],
        )
        for index, layer in enumerate(weights.layers):
            x = x + layer.output(self._mix(index, layer, rms_norm(x, layer.attention_norm, config.norm_eps), common))
            x = x + layer.down(swiglu(layer.gate_up(rms_norm(x, layer.mlp_norm, config.norm_eps))))
        if not len(batch.wanted):
            return torch.empty(0, config.vocab_size)
        return weights.head(rms_norm(x[batch.wanted], weights.norm, config.norm_eps)).float()

    def _mix(self, index: int, layer: Layer, x: Tensor, common: _Pass) -> Tensor:
        """x [rows, hidden] -> [rows, heads * head_dim]: every row belongs to a span."""
        config = self._config
        rows = x.shape[0]
        heads_of_rows = layer.qkv(x).view(rows, -1, config.head_dim)
        q, k = heads_of_rows[:, : config.heads], heads_of_rows[:, config.heads : config.heads + config.kv_heads]
        if layer.q_norm is not None and layer.k_norm is not None:
            q.copy_(rms_norm(q, layer.q_norm, config.norm_eps))
            k.copy_(rms_norm(k, layer.k_norm, config.norm_eps))
        self._rotary.rotate_(heads_of_rows[:, : config.heads + config.kv_heads], *common.turn)
        self._cache.store(index, common.places, heads_of_rows[:, config.heads :])
        parts = []
        for span, views in common.spans:
            keys_values = self._cache.read(index, span.blocks)
            for view in views:
                q_of_part = q[view.span.first : view.span.first + view.span.count]
                parts.append(self.attention.attend(view, q_of_part, keys_values, layer.window))
        out = parts[0] if len(parts) == 1 else torch.cat(parts)
        return out.reshape(rows, -1)
