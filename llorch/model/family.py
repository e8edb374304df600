"""What may differ between families of the Llama shape; one value a family, collected in `families.py`.

The decoder itself (RMSNorm, rotary embedding, grouped-query attention, SwiGLU) is common to all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llorch.model.rope import RopeScaling

Windows = tuple[int | None, ...]

PLAIN_SCALINGS: Mapping[str, RopeScaling] = {
    scaling.value: scaling for scaling in (RopeScaling.NONE, RopeScaling.LINEAR, RopeScaling.LLAMA3)
}


def no_windows(raw: Mapping[str, Any], layers: int) -> Windows:
    """Every layer sees the whole context."""
    return (None,) * layers


@dataclass(frozen=True, slots=True)
class WeightNames:
    """Names of one layer's tensors below `layers.N.`, without `.weight`.

    `qkv` and `gate_up` are the tensors to be stacked on their output dimension, or the one in which the file already
    has them stacked, in the same order. `q_norm` and `k_norm` are RMSNorms over a head; None where there are none.
    """

    attention_norm: str = "input_layernorm"
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    q_norm: str | None = None
    k_norm: str | None = None
    output: str = "self_attn.o_proj"
    mlp_norm: str = "post_attention_layernorm"
    gate_up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    down: str = "mlp.down_proj"


@dataclass(frozen=True, slots=True)
class Family:
    """`windows(config.json, layers)` gives each layer's sliding window. Biases are taken where the file has them.

    `scalings`: the names of rope scaling that its config.json may use. `partial_rotary`: heads may be rotated in part.
    """

    model_type: str
    windows: Callable[[Mapping[str, Any], int], Windows] = no_windows
    tied_head_default: bool = False
    names: WeightNames = WeightNames()
    scalings: Mapping[str, RopeScaling] = field(default_factory=lambda: PLAIN_SCALINGS)
    partial_rotary: bool = False
