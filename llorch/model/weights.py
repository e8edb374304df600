"""A model's weights as the decoder uses them, read from a checkpoint: stacked, converted and packed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from llorch.model.checkpoint import Checkpoint
from llorch.model.config import ModelConfig
from llorch.model.layers import Linear


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's weights; q, k and v are stacked, and so are gate and up."""

    attention_norm: Tensor
    qkv: Linear
    output: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear
    window: int | None


@dataclass(frozen=True, slots=True)
class Weights:
    """All weights. With a tied head `head` is a packed copy of `embedding`, which itself may stay mapped."""

    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor
    head: Linear

    @property
    def size_bytes(self) -> int:
        """Bytes of all weights, norms included."""
        total = self.embedding.nbytes + self.norm.nbytes + self.head.size_bytes
        for layer in self.layers:
            total += layer.attention_norm.nbytes + layer.mlp_norm.nbytes
            total += sum(linear.size_bytes for linear in (layer.qkv, layer.output, layer.gate_up, layer.down))
        return total


class _Reader:
    """Takes a layer's tensors from the checkpoint, stacked and converted."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype, progress: Callable[[float], None]) -> None:
        self._checkpoint = checkpoint
        self._dtype = dtype
        self._progress = progress

    def norm(self, name: str, size: int) -> Tensor:
        return self._checkpoint.take(f"{name}.weight", (size,)).to(self._dtype, copy=True)

    def linear(self, prefix: str, names: tuple[str, ...], sizes: tuple[int, ...], inputs: int) -> Linear:
        weights = [self._checkpoint.take(f"{prefix}{n}.weight", (s, inputs)) for n, s in zip(names, sizes, strict=True)]
        stored = [self._checkpoint.take_if_stored(f"{prefix}{n}.bias", (s,)) for n, s in zip(names, sizes, strict=True)]
        biases = [bias for bias in stored if bias is not None]
        assert len(biases) in (0, len(names)), "stacked projections have biases together or not at all"
        bias = torch.cat([b.to(self._dtype) for b in biases]) if biases else None
        linear = Linear(torch.cat([w.to(self._dtype) for w in weights]), bias)
        self._progress(self._checkpoint.values_taken / self._checkpoint.values)
        return linear


def read_weights(
    config: ModelConfig, checkpoint: Checkpoint, dtype: torch.dtype, progress: Callable[[float], None]
) -> Weights:
    """All weights of a model in `dtype`; `progress` gets the share read, up to 1. Raises InvalidModel."""
    reader = _Reader(checkpoint, dtype, progress)
    names = config.family.names
    hidden = config.hidden_size
    heads_size, kv_size = config.heads * config.head_dim, config.kv_heads * config.head_dim
    layers = []
    for index in range(config.layers):
        prefix = f"layers.{index}."
        layers.append(
            Layer(
                attention_norm=reader.norm(prefix + names.attention_norm, hidden),
                qkv=reader.linear(prefix, names.qkv, (heads_size, kv_size, kv_size), hidden),
                output=reader.linear(prefix, (names.output,), (hidden,), heads_size),
                mlp_norm=reader.norm(prefix + names.mlp_norm, hidden),
                gate_up=reader.linear(prefix, names.gate_up, (config.intermediate_size,) * 2, hidden),
                down=reader.linear(prefix, (names.down,), (hidden,), config.intermediate_size),
                window=config.windows[index],
            )
        )
    vocabulary = (config.vocab_size, hidden)
    embedding = checkpoint.take("embed_tokens.weight", vocabulary).to(dtype)
    stored_head = checkpoint.take_if_stored("lm_head.weight", vocabulary)
    if stored_head is None or config.tied_head:
        head = Linear(checkpoint.take("embed_tokens.weight", vocabulary).to(dtype))
    else:
        head = reader.linear("", ("lm_head",), (config.vocab_size,), hidden)
    return Weights(embedding, tuple(layers), reader.norm("norm", hidden), head)
