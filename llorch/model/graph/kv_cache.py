"""Keys and values in numbered blocks of 128 positions: address space reserved, memory touched as blocks are used."""

from __future__ import annotations

import torch
from torch import Tensor

from llorch.batching.blocks import BLOCK_POSITIONS
from llorch.batching.plan import Copy
from llorch.model.config import ModelConfig
from llorch.model.graph.layers import reserve


class KvCache:
    """One tensor a layer, [blocks, 128, 2 * kv_heads, head_dim]: a position's keys, then its values.

    It starts as zeros, not as garbage, because masked positions are multiplied by an exact 0.
    """

    def __init__(self, config: ModelConfig, *, blocks: int, dtype: torch.dtype) -> None:
        self.blocks = blocks
        self._position_shape = (2 * config.kv_heads, config.head_dim)
        shape = (blocks, BLOCK_POSITIONS, *self._position_shape)
        self._layers = [reserve(shape, dtype) for _ in range(config.layers)]
        self._block_bytes = BLOCK_POSITIONS * config.kv_values_per_position * dtype.itemsize
        self._touched: set[int] = set()

    @property
    def resident_bytes(self) -> int:
        """Memory that has been written to, in whole blocks."""
        return len(self._touched) * self._block_bytes

    def touch(self, blocks: tuple[int, ...]) -> None:
        """Note that blocks are about to be written."""
        assert all(0 <= block < self.blocks for block in blocks), f"blocks {blocks} of {self.blocks}"
        self._touched.update(blocks)

    def copy(self, copy: Copy) -> None:
        """Copy the first positions of one block into another, in all layers."""
        self.touch((copy.target,))
        for layer in self._layers:
            layer[copy.target, : copy.positions] = layer[copy.source, : copy.positions]

    def store(self, layer: int, places: Tensor, keys_values: Tensor) -> None:
        """Write [rows, 2 * kv_heads, head_dim]; `places` [rows] int64 are block * 128 + position in the block."""
        self._layers[layer].view(-1, *self._position_shape).index_copy_(0, places, keys_values)

    def read(self, layer: int, blocks: tuple[int, ...]) -> Tensor:
        """The positions of some blocks in order, [128 * len(blocks), 2 * kv_heads, head_dim]: a view where the blocks
        follow one another, else a copy, with the same strides either way.
        """
        first = blocks[0]
        if blocks == tuple(range(first, first + len(blocks))):
            found = self._layers[layer][first : first + len(blocks)]
        else:
            found = self._layers[layer].index_select(0, torch.tensor(blocks))
        return found.view(-1, *self._position_shape)
