"""A model's weights as the decoder uses them, read by the recipe: stacked, converted and packed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llorch.base.errors import InvalidModel
from llorch.model.checkpoint import StoredTensor
from llorch.model.graph.layers import Linear
from llorch.model.recipe import LayerRecipe, Matrix, Part, Recipe


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's weights; q, k and v are stacked, and so are gate and up. `q_norm` and `k_norm` may be missing."""

    attention_norm: Tensor
    qkv: Linear
    q_norm: Tensor | None
    k_norm: Tensor | None
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


class _Reader:
    """Reads stored tensors by name from their shards, each of which is mapped once."""

    def __init__(self, dtype: torch.dtype, values: int, progress: Callable[[float], None]) -> None:
        self._dtype = dtype
        self._shards: dict[Path, Any] = {}
        self._values = values
        self._values_read = 0
        self._progress = progress

    def tensor(self, stored: StoredTensor) -> Tensor:
        """In our dtype; still mapped where it is stored in that."""
        try:
            if stored.shard not in self._shards:
                self._shards[stored.shard] = safe_open(str(stored.shard), framework="pt")
            found: Tensor = self._shards[stored.shard].get_tensor(stored.name)
        except (SafetensorError, OSError) as problem:
            raise InvalidModel(f"{stored.shard.name} is not a readable safetensors file: {problem}") from None
        return found.to(self._dtype)

    def vector(self, stored: StoredTensor) -> Tensor:
        """In memory of its own, so that no shard stays mapped for a few values."""
        self._count(stored.values)
        return self.tensor(stored).clone()

    def optional(self, stored: StoredTensor | None) -> Tensor | None:
        """The same where there is one."""
        return None if stored is None else self.vector(stored)

    def linear(self, matrix: Matrix) -> Linear:
        """Its parts stacked, and packed."""
        bias = torch.cat([self._part(part) for part in matrix.bias]) if matrix.bias else None
        linear = Linear(torch.cat([self._part(part) for part in matrix.parts]), bias)
        self._count(matrix.outputs * matrix.inputs)
        return linear

    def _part(self, part: Part) -> Tensor:
        return self.tensor(part.tensor)[part.rows.start : part.rows.stop]

    def _count(self, values: int) -> None:
        self._values_read += values
        self._progress(min(1.0, self._values_read / self._values))


def read_weights(recipe: Recipe, dtype: torch.dtype, progress: Callable[[float], None]) -> Weights:
    """All weights of a model in `dtype`; `progress` gets the share read, up to 1. Raises InvalidModel."""
    reader = _Reader(dtype, recipe.values, progress)
    layers = tuple(_layer(reader, layer) for layer in recipe.layers)
    return Weights(reader.tensor(recipe.embedding), layers, reader.vector(recipe.norm), reader.linear(recipe.head))


def _layer(reader: _Reader, recipe: LayerRecipe) -> Layer:
    return Layer(
        attention_norm=reader.vector(recipe.attention_norm),
        qkv=reader.linear(recipe.qkv),
        q_norm=reader.optional(recipe.q_norm),
        k_norm=reader.optional(recipe.k_norm),
        output=reader.linear(recipe.output),
        mlp_norm=reader.vector(recipe.mlp_norm),
        gate_up=reader.linear(recipe.gate_up),
        down=reader.linear(recipe.down),
        window=recipe.window,
    )
