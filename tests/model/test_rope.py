"""Rotary frequencies against `transformers`, and what of them is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from tiny_models import FAMILIES, LONG_FROM, SHAPE
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from llorch.base.errors import InvalidModel
from llorch.model.config import ModelConfig, parse_config


def reference(config: Any, seq_len: int) -> tuple[torch.Tensor, float]:
    """transformers' inverse frequencies and attention factor for a sequence of some length."""
    kind = config.rope_parameters["rope_type"]
    if kind == "default":
        width = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        exponents = torch.arange(0, width, 2, dtype=torch.int64).float() / width
        return 1.0 / (config.rope_parameters["rope_theta"] ** exponents), 1.0
    return ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=seq_len)


def both(name: str, **changes: object) -> tuple[Any, ModelConfig]:
    label, extra = FAMILIES[name]
    config = getattr(transformers, f"{label}Config")(**{**SHAPE, **extra, **changes})
    return config, parse_config(config.to_dict(), {})


@pytest.mark.parametrize("name", FAMILIES)
def test_frequencies_equal_transformers(name: str) -> None:
    """Every family's frequencies, for short and for long sequences, to a rounding of fp32, and the attention factor."""
    theirs, config = both(name)
    for stretch in (False, True):
        expected, factor = reference(theirs, LONG_FROM.get(name, 0) + (1 if stretch else 0))
        ours = torch.tensor(config.rope.frequencies(stretch=stretch))
        torch.testing.assert_close(ours, expected, rtol=3e-7, atol=0.0)
        assert config.rope.attention_factor == pytest.approx(factor, abs=1e-12)


def test_published_shapes() -> None:
    """Heads of the published sizes: Llama 3's theta and scaling, Phi-4's 96 of 128 dimensions."""
    llama3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "original_max_position_embeddings": 8192}
    llama3 |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    theirs, config = both("llama3", head_dim=128, max_position_embeddings=131072, rope_parameters=llama3)
    torch.testing.assert_close(torch.tensor(config.rope.frequencies()), reference(theirs, 1)[0], rtol=3e-7, atol=0.0)
    assert parse_config({**theirs.to_dict(), "model_type": "phi3", "head_dim": 128, "rope_parameters": None,
                         "partial_rotary_factor": 0.75}, {}).rope.rotary_dim == 96  # fmt: skip


@pytest.mark.parametrize("spelling", ["su", "yarn", "longrope"])
def test_spellings_of_longrope(spelling: str) -> None:
    """Phi-3's releases spell LongRoPE in three ways, with the original context beside the object."""
    factors = {"type": spelling, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    raw = {**SHAPE, "model_type": "phi3", "rope_scaling": factors, "original_max_position_embeddings": 128}
    config = parse_config(raw, {})
    assert config.long_from == 128
    assert config.rope.attention_factor == pytest.approx(
        (1 + torch.tensor(4.0).log() / torch.tensor(128.0).log()).sqrt()
    )
    assert config.rope.frequencies(stretch=True)[0] == 0.5


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "longrope"}, "short_factor must be a list of 8 numbers"),
        ({"rope_type": "longrope", "short_factor": [1.0] * 7}, "short_factor must be a list of 8"),
        ({"rope_type": "longrope", "short_factor": [0.0] * 8}, "short_factor must be a positive number"),
        ({"rope_type": "llama3"}, "'llama3' is not supported; supported are default, longrope"),
        ({"partial_rotary_factor": 0.05}, "cannot be rotated in pairs"),
        ({"partial_rotary_factor": 2.0}, "cannot be rotated in pairs"),
        ([1], "must be an object"),
    ],
)
def test_what_is_refused(rope: object, message: str) -> None:
    """Scalings a family does not have, lists of another length and shares that make no pairs are refused."""
    with pytest.raises(InvalidModel, match=message):
        parse_config({**SHAPE, "model_type": "phi3", "rope_parameters": rope}, {})
