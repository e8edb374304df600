"""Mistral: the Llama shape with one sliding window for all layers, where config.json sets one."""

from collections.abc import Mapping
from typing import Any

from llorch.model.family import Family, Windows


def windows(raw: Mapping[str, Any], layers: int) -> Windows:
    """`sliding_window` may be absent (then 4096, the first release's) or null (none, since version 0.2)."""
    return (raw.get("sliding_window", 4096),) * layers


FAMILY = Family("mistral", windows=windows)
