"""A model directory's config.json as a frozen value, checked once; families differ by their row in `families.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llorch.base.errors import InvalidModel
from llorch.model.families import FAMILIES, Family
from llorch.model.rope import Rope, RopeScaling, read_rope

LAYERS_MAX = 1024


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shapes and constants of a decoder. `windows` has one entry a layer: its sliding window in positions, or None."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    rope: Rope
    context_length: int
    windows: tuple[int | None, ...]
    tied_head: bool
    eos_ids: frozenset[int]

    @property
    def family(self) -> Family:
        """The family's row."""
        return FAMILIES[self.model_type]

    @property
    def long_from(self) -> int | None:
        """Sequences that may grow longer than this are computed with the second set of rotary frequencies (`stretch`)
        from their first position on; None when the model has one set.
        """
        return self.rope.original_context if self.rope.scaling is RopeScaling.LONGROPE else None

    @property
    def kv_values_per_position(self) -> int:
        """Numbers cached for one position over all layers."""
        return self.layers * 2 * self.kv_heads * self.head_dim


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model directory; empty when there is no such file. Raises InvalidModel."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as problem:
        raise InvalidModel(f"{path.name} cannot be read: {type(problem).__name__}") from None
    if not isinstance(value, dict):
        raise InvalidModel(f"{path.name} is not a JSON object")
    return value


def read_config(directory: Path) -> ModelConfig:
    """The configuration of a model directory. Raises InvalidModel, naming what is wrong or what is supported."""
    raw = read_json(directory / "config.json")
    if not raw:
        raise InvalidModel("there is no config.json in the model directory")
    return parse_config(raw, read_json(directory / "generation_config.json"))


def parse_config(raw: Mapping[str, Any], generation: Mapping[str, Any]) -> ModelConfig:
    """config.json and generation_config.json as a ModelConfig. Raises InvalidModel."""
    family = _family(raw)
    if raw.get("hidden_act", "silu") != "silu":
        raise InvalidModel(f"activation {raw['hidden_act']!r} is not supported, only 'silu'")
    layers = _positive(raw, "num_hidden_layers")
    if layers > LAYERS_MAX:
        raise InvalidModel(f"config.json: num_hidden_layers must be at most {LAYERS_MAX}")
    heads = _positive(raw, "num_attention_heads")
    hidden_size = _positive(raw, "hidden_size")
    kv_heads = _positive(raw, "num_key_value_heads", heads)
    head_dim = _positive(raw, "head_dim", hidden_size // heads)
    if heads % kv_heads or head_dim % 2:
        raise InvalidModel(f"{heads} heads cannot share {kv_heads} key-value heads of size {head_dim}")
    context_length = _positive(raw, "max_position_embeddings", 2048)
    return ModelConfig(
        model_type=family.model_type,
        vocab_size=_positive(raw, "vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=_positive(raw, "intermediate_size"),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        rope=read_rope(
            raw,
            scalings=family.scalings,
            partial_rotary=family.partial_rotary,
            head_dim=head_dim,
            context_length=context_length,
        ),
        context_length=context_length,
        windows=_windows(family, raw, layers),
        tied_head=bool(raw.get("tie_word_embeddings", family.tied_head_default)),
        eos_ids=_ids(raw.get("eos_token_id")) | _ids(generation.get("eos_token_id")),
    )


def _family(raw: Mapping[str, Any]) -> Family:
    model_type = raw.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise InvalidModel(f"model_type {model_type!r} is not supported; supported are {', '.join(sorted(FAMILIES))}")
    return family


def _positive(raw: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = raw.get(name)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidModel(f"config.json: {name} must be a positive integer")
    return value


def _windows(family: Family, raw: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    windows = family.windows(raw, layers)
    if len(windows) != layers or not all(size is None or (type(size) is int and size > 0) for size in windows):
        raise InvalidModel("config.json: sliding_window must be a positive integer, one kind for each layer")
    return windows


def _ids(value: Any) -> frozenset[int]:
    """One id, a list of them, or none."""
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(item) is int for item in ids):
        raise InvalidModel("config.json: eos_token_id must be an integer or a list of integers")
    return frozenset(ids)
