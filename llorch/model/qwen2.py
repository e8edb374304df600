"""Qwen2 and Qwen2.5: biases on q, k and v; a sliding window in the upper layers only when config.json turns it on."""

from collections.abc import Mapping
from typing import Any

from llorch.model.family import Family, Windows


def windows(raw: Mapping[str, Any], layers: int) -> Windows:
    """Layers from `max_window_layers` up slide when `use_sliding_window` is set; `layer_types` says it outright."""
    size = raw.get("sliding_window") if raw.get("use_sliding_window") else None
    types = raw.get("layer_types")
    if types is not None:
        return tuple(size if kind == "sliding_attention" else None for kind in types)
    full = raw.get("max_window_layers", 28)
    return tuple(size if index >= full else None for index in range(layers))


FAMILY = Family("qwen2", windows=windows)
