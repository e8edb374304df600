"""The arithmetic of a decoder layer, in shapes that give each row the same bits whatever the other rows are.

A *row* is one position of one sequence; tensors are [rows, ...]. Measured with torch 2.13 on AVX2, AVX512 and
AVX512-bf16: oneDNN's packed matmul sums over K in the same order for any number of rows, except that a lone row takes
another kernel when K > 1024.
"""

from __future__ import annotations

import math
import mmap
import platform

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own customary name)
from torch import Tensor

from llorch.batching.blocks import BLOCK_POSITIONS, blocks_for
from llorch.model.rope import Rope

LONE_ROW_K_MAX = 1024
SERIAL_VALUES_MAX = 32_767  # torch splits longer elementwise work between threads, at places that depend on its length


def _packing_available() -> bool:
    return torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")


class Linear:
    """y = x W^T + b with W [n, k] packed for oneDNN where the CPU has it; x [rows, k] of the same dtype."""

    __slots__ = ("_bias", "_lone_row_twice", "_packed", "_weight")

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._packed = _packing_available()
        self._lone_row_twice = weight.shape[1] > LONE_ROW_K_MAX
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, None) if self._packed else weight
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        if not self._packed:
            return F.linear(x, self._weight, self._bias)
        if self._lone_row_twice and x.shape[0] == 1:
            return self._matmul(x.expand(2, -1).contiguous())[:1]
        return self._matmul(x)

    def _matmul(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return y


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [rows, h] over its root mean square, times weight [h]; inside in fp32."""
    if x.dtype is torch.float32:
        return F.rms_norm(x, weight.shape, weight, eps)
    return F.rms_norm(x.float(), weight.shape, None, eps).to(x.dtype) * weight


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of [rows, gate | up], in pieces that torch never splits between threads inside a row."""
    rows, width = gate_up.shape
    half = width // 2
    step = max(1, SERIAL_VALUES_MAX // half)
    if rows <= step:
        return F.silu(gate_up[:, :half]).mul_(gate_up[:, half:])
    return torch.cat([swiglu(part) for part in gate_up.split(step)])


class Rotary:
    """Cosines and signed sines of the positions below `context`, in the dtype of the activations.

    The tables are filled a block of 128 positions at a time, when the first row gets there: for a long context they
    are larger than the weights of a small model, and computing them block by block gives the same bits every time.
    """

    def __init__(self, rope: Rope, context: int, dtype: torch.dtype) -> None:
        self._width = rope.rotary_dim
        stretches = (False, True) if rope.long_factors else (False,)
        self._tables = [_RotaryTable(rope, context, dtype, stretch=stretch) for stretch in stretches]

    def at(self, positions: Tensor, stretched: Tensor | None) -> tuple[Tensor, Tensor]:
        """Cosines and sines of `positions` [rows], each [rows, 1, rotary_dim]; rows that are `stretched` [rows] take
        the second set of frequencies.
        """
        cos, sin = self._tables[0].at(positions)
        if stretched is not None and len(self._tables) > 1:
            choice = stretched.view(-1, 1, 1)
            long_cos, long_sin = self._tables[1].at(positions)
            cos, sin = torch.where(choice, long_cos, cos), torch.where(choice, long_sin, sin)
        return cos, sin

    def rotate_(self, x: Tensor, cos: Tensor, sin: Tensor) -> None:
        """Rotate the first `rotary_dim` dimensions of x [rows, heads, head_dim] in place; separate multiply and add,
        since a fused one rounds otherwise.
        """
        turning = x[..., : self._width]
        half = self._width // 2
        turned = torch.cat((turning[..., half:], turning[..., :half]), -1).mul_(sin)
        turning.mul_(cos).add_(turned)


class _RotaryTable:
    """One set of frequencies' cosines and sines, [2, context, rotary_dim], filled up to `_filled` positions."""

    def __init__(self, rope: Rope, context: int, dtype: torch.dtype, *, stretch: bool) -> None:
        self._frequencies = torch.tensor(rope.frequencies(stretch=stretch), dtype=torch.float32)
        self._attention_factor = rope.attention_factor
        positions = blocks_for(context) * BLOCK_POSITIONS
        self._table = reserve((2, positions, rope.rotary_dim), dtype)
        self._filled = 0

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """[rows, 1, rotary_dim] each."""
        while self._filled <= int(positions.max()):
            self._fill()
        return self._table[0, positions].unsqueeze(1), self._table[1, positions].unsqueeze(1)

    def _fill(self) -> None:
        start, stop = self._filled, self._filled + BLOCK_POSITIONS
        angle = torch.outer(torch.arange(start, stop, dtype=torch.float32), self._frequencies)
        cos, sin = angle.cos() * self._attention_factor, angle.sin() * self._attention_factor
        self._table[0, start:stop] = torch.cat((cos, cos), -1)
        self._table[1, start:stop] = torch.cat((-sin, sin), -1)
        self._filled = stop


def reserve(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros whose pages the kernel provides when they are first written; `torch.zeros` would touch them all."""
    size_bytes = math.prod(shape) * dtype.itemsize
    pages = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).view(shape)
