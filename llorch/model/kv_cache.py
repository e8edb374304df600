"""Keys and values of all slots: contiguous per slot, address space reserved, memory touched as positions are used."""

from __future__ import annotations

import math
import mmap

import torch
from torch import Tensor

from llorch.batching.blocks import BLOCK_POSITIONS, blocks_for
from llorch.model.config import ModelConfig


class KvCache:
    """One tensor a layer, [slots, positions, 2 * kv_heads, head_dim]: a position's keys, then its values.

    It starts as zeros, not as garbage, because masked positions are multiplied by an exact 0.
    """

    def __init__(self, config: ModelConfig, *, slots: int, context: int, dtype: torch.dtype) -> None:
        self.slots = slots
        self.positions = blocks_for(context) * BLOCK_POSITIONS
        self._kv_heads = config.kv_heads
        shape = (slots, self.positions, 2 * config.kv_heads, config.head_dim)
        self._layers = [_reserve(shape, dtype) for _ in range(config.layers)]
        self._flat = [layer.view(-1, 2 * config.kv_heads, config.head_dim) for layer in self._layers]
        self._block_bytes = BLOCK_POSITIONS * config.kv_values_per_position * dtype.itemsize
        self._blocks_touched = [0] * slots

    @property
    def resident_bytes(self) -> int:
        """Memory that has been written to, in whole blocks."""
        return sum(self._blocks_touched) * self._block_bytes

    def touch(self, slot: int, end: int) -> None:
        """Note that positions below `end` of a slot are about to be written."""
        self._blocks_touched[slot] = max(self._blocks_touched[slot], blocks_for(end))

    def row_indexes(self, slots: Tensor, positions: Tensor) -> Tensor:
        """Where rows are stored: slots and positions [rows] to one index a row, for `store`."""
        return slots * self.positions + positions

    def store(self, layer: int, row_indexes: Tensor, keys_values: Tensor) -> None:
        """Write [rows, 2 * kv_heads, head_dim]."""
        self._flat[layer].index_copy_(0, row_indexes, keys_values)

    def keys(self, layer: int, slot: int, start: int, end: int) -> Tensor:
        """Keys of positions start..end of a slot, a view [positions, kv_heads, head_dim]."""
        return self._layers[layer][slot, start:end, : self._kv_heads]

    def values(self, layer: int, slot: int, start: int, end: int) -> Tensor:
        """Values, likewise."""
        return self._layers[layer][slot, start:end, self._kv_heads :]


def _reserve(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros whose pages the kernel provides when they are first written; `torch.zeros` would touch them all."""
    size_bytes = math.prod(shape) * dtype.itemsize
    pages = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).view(shape)
