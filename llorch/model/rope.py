"""Rotary frequencies: how fast each pair of a head's dimensions turns with the position, as plain floats.

Every value is rounded to fp32 after each operation, as a model's reference implementation computes in fp32; both
runners start from these floats, so that they turn alike.

Sources: rotary embedding, Su et al., "RoFormer" (2021); LLAMA3 as published with Llama 3.1; LONGROPE, Ding et al.,
"LongRoPE" (2024), with the attention factor of the Phi-3 release.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from llorch.base.errors import InvalidModel

THETA_DEFAULT = 10_000.0
LONGROPE_ORIGINAL_DEFAULT = 4096


class RopeScaling(Enum):
    """How rotary frequencies are stretched for a longer context; the values are the files' `rope_type`."""

    NONE = "default"
    LINEAR = "linear"
    LLAMA3 = "llama3"
    LONGROPE = "longrope"


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding of the first `rotary_dim` dimensions of a head.

    `original_context` is in positions. `low_freq_factor` and `high_freq_factor` belong to LLAMA3; `short_factors`,
    `long_factors` (one a frequency) and `attention_factor` (on cosine and sine) to LONGROPE.
    """

    rotary_dim: int
    theta: float = THETA_DEFAULT
    scaling: RopeScaling = RopeScaling.NONE
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    attention_factor: float = 1.0

    def frequencies(self, *, stretch: bool = False) -> tuple[float, ...]:
        """Radians per position, `rotary_dim` / 2 of them. `stretch` takes the long factors of LONGROPE."""
        powers = [_f32(self.theta ** _f32(even / self.rotary_dim)) for even in range(0, self.rotary_dim, 2)]
        if self.scaling is RopeScaling.LONGROPE:
            factors = self.long_factors if stretch else self.short_factors
            return tuple(_f32(1.0 / _f32(_f32(f) * power)) for f, power in zip(factors, powers, strict=True))
        plain = [_f32(1.0 / power) for power in powers]
        if self.scaling is RopeScaling.LINEAR:
            return tuple(_f32(frequency / self.factor) for frequency in plain)
        if self.scaling is RopeScaling.LLAMA3:
            return tuple(self._llama3(frequency) for frequency in plain)
        return tuple(plain)

    def _llama3(self, frequency: float) -> float:
        """Long waves are slowed down by `factor`, short ones kept, those between blended."""
        wave = _f32(_f32(2 * math.pi) / frequency)
        if wave > self.original_context / self.low_freq_factor:
            return _f32(frequency / self.factor)
        if wave < self.original_context / self.high_freq_factor:
            return frequency
        width = self.high_freq_factor - self.low_freq_factor
        keep = _f32(_f32(_f32(self.original_context / wave) - self.low_freq_factor) / width)
        return _f32(_f32(_f32(_f32(1.0 - keep) * frequency) / self.factor) + _f32(keep * frequency))


def _f32(value: float) -> float:
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded


def read_rope(
    raw: Mapping[str, Any],
    *,
    scalings: Mapping[str, RopeScaling],
    partial_rotary: bool,
    head_dim: int,
    context_length: int,
) -> Rope:
    """A config.json's rotary embedding, in both spellings: `rope_theta` beside `rope_scaling`, and the newer
    `rope_parameters` that holds both. `scalings` and `partial_rotary` are the family's. Raises InvalidModel.
    """
    found = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(found, dict):
        raise InvalidModel("config.json: rope_parameters must be an object")
    kind = found.get("rope_type") or found.get("type") or "default"
    scaling = scalings.get(kind) if isinstance(kind, str) else None
    if scaling is None:
        raise InvalidModel(f"rope scaling {kind!r} is not supported; supported are {', '.join(sorted(scalings))}")
    share = _number(found if "partial_rotary_factor" in found else raw, "partial_rotary_factor", 1.0)
    rotary_dim = int(head_dim * share)
    if rotary_dim != head_dim and not partial_rotary:
        raise InvalidModel("partial rotary embeddings are not supported for this model type")
    if not 0 < rotary_dim <= head_dim or rotary_dim % 2:
        raise InvalidModel(f"config.json: {rotary_dim} of {head_dim} dimensions of a head cannot be rotated in pairs")
    theta = _number(found if found.get("rope_theta") else raw, "rope_theta", THETA_DEFAULT)
    if scaling is RopeScaling.LONGROPE:
        return _longrope(raw, found, theta, rotary_dim, context_length)
    return Rope(
        rotary_dim,
        theta,
        scaling,
        factor=_number(found, "factor", 1.0),
        low_freq_factor=_number(found, "low_freq_factor", 1.0),
        high_freq_factor=_number(found, "high_freq_factor", 4.0),
        original_context=int(_number(found, "original_max_position_embeddings", context_length)),
    )


def _longrope(
    raw: Mapping[str, Any], found: Mapping[str, Any], theta: float, rotary_dim: int, context_length: int
) -> Rope:
    """`original_max_position_embeddings` beside the object wins over the one inside, as Phi-3's files mean it."""
    inside = _number(found, "original_max_position_embeddings", LONGROPE_ORIGINAL_DEFAULT)
    original = int(_number(raw, "original_max_position_embeddings", inside))
    if original < 2:
        raise InvalidModel("config.json: original_max_position_embeddings must be at least 2")
    factor = _number(found, "factor", context_length / original)
    stretched = 1.0 if factor <= 1.0 else math.sqrt(1 + math.log(factor) / math.log(original))
    return Rope(
        rotary_dim,
        theta,
        RopeScaling.LONGROPE,
        factor=factor,
        original_context=original,
        short_factors=_factors(found, "short_factor", rotary_dim // 2),
        long_factors=_factors(found, "long_factor", rotary_dim // 2),
        attention_factor=_number(found, "attention_factor", stretched),
    )


def _number(raw: Mapping[str, Any], name: str, default: float) -> float:
    value = raw.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise InvalidModel(f"config.json: {name} must be a positive number")
    return float(value)


def _factors(found: Mapping[str, Any], name: str, count: int) -> tuple[float, ...]:
    values = found.get(name)
    if not isinstance(values, list) or len(values) != count:
        raise InvalidModel(f"config.json: {name} must be a list of {count} numbers")
    return tuple(_number({name: value}, name, 0.0) for value in values)
