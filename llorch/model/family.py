"""What may differ between families of the Llama shape; one value a family, collected in `families.py`.

The decoder itself (RMSNorm, rotary embedding, grouped-query attention, SwiGLU) is common to all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Windows = tuple[int | None, ...]


def no_windows(raw: Mapping[str, Any], layers: int) -> Windows:
    """Every layer sees the whole context."""
    return (None,) * layers


@dataclass(frozen=True, slots=True)
class WeightNames:
    """Names of one layer's tensors below `layers.N.`; several names are stacked on their output dimension."""

    attention_norm: str = "input_layernorm"
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    output: str = "self_attn.o_proj"
    mlp_norm: str = "post_attention_layernorm"
    gate_up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    down: str = "mlp.down_proj"


@dataclass(frozen=True, slots=True)
class Family:
    """`windows(config.json, layers)` gives each layer's sliding window. Biases are taken where the file has them."""

    model_type: str
    windows: Callable[[Mapping[str, Any], int], Windows] = no_windows
    tied_head_default: bool = False
    names: WeightNames = WeightNames()
