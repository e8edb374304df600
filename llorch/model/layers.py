"""The arithmetic of a decoder layer, in shapes that give each row the same bits whatever the other rows are.

A *row* is one position of one sequence; tensors are [rows, ...]. Measured with torch 2.13 on AVX2, AVX512 and
AVX512-bf16: oneDNN's packed matmul sums over K in the same order for any number of rows, except that a lone row takes
another kernel when K > 1024.
"""

from __future__ import annotations

import math
import platform

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own customary name)
from torch import Tensor

from llorch.model.config import Rope, RopeScaling

LONE_ROW_K_MAX = 1024
SERIAL_VALUES_MAX = 32_767  # torch splits longer elementwise work between threads, at places that depend on its length


def _packing_available() -> bool:
    return torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")


class Linear:
    """y = x W^T + b with W [n, k] packed for oneDNN where the CPU has it; x [rows, k] of the same dtype."""

    __slots__ = ("_bias", "_lone_row_twice", "_packed", "_weight", "size_bytes")

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.size_bytes = weight.nbytes + (0 if bias is None else bias.nbytes)
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


def rope_frequencies(rope: Rope, head_dim: int) -> Tensor:
    """Radians per position, [head_dim / 2] fp32. LLAMA3 as published with Llama 3.1: long waves are slowed down by
    `factor`, short ones kept, those between blended.
    """
    frequency = 1.0 / (rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim))
    if rope.scaling is RopeScaling.LINEAR:
        return frequency / rope.factor
    if rope.scaling is RopeScaling.LLAMA3:
        waves = rope.original_context * frequency / (2 * math.pi)
        keep = (waves - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        keep = keep.clamp(0.0, 1.0)
        return (1 - keep) * frequency / rope.factor + keep * frequency
    return frequency


class Rotary:
    """Tables of cosines and signed sines, [context, 1, head_dim], in the dtype of the activations."""

    def __init__(self, rope: Rope, head_dim: int, context: int, dtype: torch.dtype) -> None:
        angle = torch.outer(torch.arange(context, dtype=torch.float32), rope_frequencies(rope, head_dim))
        cos, sin = angle.cos(), angle.sin()
        self._half = head_dim // 2
        self._cos = torch.cat((cos, cos), -1).to(dtype).unsqueeze(1)
        self._sin = torch.cat((-sin, sin), -1).to(dtype).unsqueeze(1)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The table rows of `positions` [rows]: two tensors [rows, 1, head_dim]."""
        return self._cos[positions], self._sin[positions]

    def rotate_(self, x: Tensor, cos: Tensor, sin: Tensor) -> None:
        """Rotate x [rows, heads, head_dim] in place; separate multiply and add, since a fused one rounds otherwise."""
        turned = torch.cat((x[..., self._half :], x[..., : self._half]), -1).mul_(sin)
        x.mul_(cos).add_(turned)
