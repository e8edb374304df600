"""Phi-3, Phi-3.5 and Phi-4-mini: q, k, v and gate, up stored as one tensor each, and LongRoPE for the long contexts."""

from collections.abc import Mapping
from typing import Any

from llorch.model.family import Family, WeightNames, Windows
from llorch.model.rope import RopeScaling


def windows(raw: Mapping[str, Any], layers: int) -> Windows:
    """One window for all layers, where `sliding_window` is set."""
    return (raw.get("sliding_window"),) * layers


FAMILY = Family(
    "phi3",
    windows=windows,
    names=WeightNames(qkv=("self_attn.qkv_proj",), gate_up=("mlp.gate_up_proj",)),
    # The first releases called LongRoPE "su", and some of their copies "yarn".
    scalings={
        "default": RopeScaling.NONE,
        "longrope": RopeScaling.LONGROPE,
        "su": RopeScaling.LONGROPE,
        "yarn": RopeScaling.LONGROPE,
    },
    partial_rotary=True,
)
