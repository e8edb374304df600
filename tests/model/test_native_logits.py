"""The native kernels' logits against `transformers` in fp32 with the same weights rounded to bf16.

The bound comes from what bf16 costs `transformers` itself, on the same model and prompt: the kernels, which sum in
fp32, must be closer to the fp32 oracle than it is. With fp32 activations (avx2) only cached keys and values are
rounded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from runs import logits, prompt, row
from tiny_models import FAMILIES, LONG_FROM
from variants import ISAS, load_native

from llorch.model import LoadedModel, Quantize

LENGTH = 150
BLOCKS = (1, 0)
ERROR_SHARE = {"amx": 1.0, "avx512": 1.0, "avx2": 0.5}
"""Of the error of `transformers` in bf16, what a variant may have."""

Load = Callable[..., LoadedModel]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def load_isa(isa: str, monkeypatch: pytest.MonkeyPatch) -> Load:
    """`load_isa(directory, **options)` on one variant."""
    return functools.partial(load_native, monkeypatch, isa)


def network(directory: Path, dtype: torch.dtype) -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation="eager")


@torch.inference_mode()
def logits_of(model: transformers.PreTrainedModel, ids: tuple[int, ...]) -> torch.Tensor:
    """[length, vocab]"""
    return model(torch.tensor([ids])).logits[0].float()


@functools.cache
def oracle(directory: Path, ids: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of every position in fp32, and how far from them each is in bf16 on average over the vocabulary."""
    exact = logits_of(network(directory, torch.float32), ids)
    rounded = logits_of(network(directory, torch.bfloat16), ids)
    return exact, (rounded - exact).abs().mean(1)


def assert_close(isa: str, got: torch.Tensor, exact: torch.Tensor, error: torch.Tensor) -> None:
    """Mean error within the bound over all positions, and no position far beyond it."""
    own = (got - exact).abs().mean(1)
    assert own.mean() <= ERROR_SHARE[isa] * error.mean(), (float(own.mean()), float(error.mean()))
    assert own.max() <= 2 * error.max(), (float(own.max()), float(error.max()))


def ours(model: LoadedModel, ids: tuple[int, ...], prefill: int, *, stretch: bool = False) -> torch.Tensor:
    """Logits after every position of a prefill of `prefill` tokens and after each decoded one, [length, vocab]."""
    parts = [row(ids, 0, prefill, BLOCKS, draws=prefill, stretch=stretch)]
    parts += [row(ids, at, at + 1, BLOCKS, stretch=stretch) for at in range(prefill, len(ids))]
    return torch.cat([logits(model.runner, part) for part in parts])


@pytest.mark.parametrize("name", FAMILIES)
def test_closer_to_fp32_than_transformers_in_bf16(
    name: str, isa: str, bf16_directories: Callable[[str], Path], load_isa: Load
) -> None:
    """Every position of a prefill over a block of 128, and of decoding, for every family."""
    directory = bf16_directories(name)
    model = load_isa(directory, slots=2)
    assert model.config.long_from == LONG_FROM.get(name)
    ids = prompt(LENGTH)
    exact, error = oracle(directory, ids)
    for prefill in (1, 140):
        assert_close(isa, ours(model, ids, prefill, stretch=name in LONG_FROM), exact, error)


@pytest.mark.parametrize("name", LONG_FROM)
def test_both_sets_of_frequencies(name: str, isa: str, bf16_directories: Callable[[str], Path], load_isa: Load) -> None:
    """Up to `long_from` positions the short factors hold, from one more the long ones; both in one pass."""
    directory = bf16_directories(name)
    model = load_isa(directory, slots=2)
    edge = LONG_FROM[name]
    ids = prompt(edge + 1)
    short, long = oracle(directory, ids[:-1]), oracle(directory, ids)
    sequences = ((edge, 0, False), (edge + 1, 1, True), (edge + 1, 2, False))
    rows = [row(ids, 0, stop, (block,), draws=stop, stretch=stretch) for stop, block, stretch in sequences]
    got = logits(model.runner, *rows).split([edge, edge + 1, edge + 1])
    assert_close(isa, got[0], *short)
    assert_close(isa, got[1], *long)
    assert (got[2] - long[0]).abs().mean() > 4 * long[1].mean()


@pytest.mark.parametrize("name", ["llama3", "phi3"])
@pytest.mark.parametrize("stored", [torch.float16, torch.float32])
def test_sharded_sources_of_other_dtypes(
    name: str, stored: torch.dtype, isa: str, write_model: Callable[..., Path], load_isa: Load
) -> None:
    """fp16 and fp32 checkpoints in many shards: matrices are rounded to bf16, norms and embeddings are not."""
    directory = write_model(name, shards="60KB", dtype=stored)
    assert len(list(directory.glob("*.safetensors"))) > 2
    ids = prompt(40)
    model = network(directory, torch.float32)
    with torch.no_grad():
        for label, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in label:
                parameter.copy_(parameter.bfloat16())
    exact = logits_of(model, ids)
    error = (logits_of(network(directory, torch.bfloat16), ids) - exact).abs().mean(1)
    assert_close(isa, ours(load_isa(directory, slots=1), ids, 30), exact, error)


@pytest.mark.parametrize("window", [1, 5, 127, 128, 129])
def test_windows_around_the_edges_of_chunks(
    window: int, isa: str, write_model: Callable[..., Path], load_isa: Load
) -> None:
    """Windows of one position, within a chunk of 128, of just a chunk, and over its edge; prompts over three chunks."""
    directory = write_model("mistral", dtype=torch.bfloat16, sliding_window=window, num_hidden_layers=2)
    ids = prompt(300)
    model = load_isa(directory, slots=2)
    exact, error = oracle(directory, ids)
    parts = [row(ids, start, stop, (3, 1, 5), draws=stop - start) for start, stop in ((0, 131), (131, 300))]
    assert_close(isa, torch.cat([logits(model.runner, part) for part in parts]), exact, error)


@pytest.mark.parametrize(
    "shape",
    [
        {"hidden_size": 80, "head_dim": 48, "intermediate_size": 40, "vocab_size": 333},
        {"hidden_size": 16, "head_dim": 80, "intermediate_size": 24, "vocab_size": 35},
        {"hidden_size": 48, "head_dim": 96, "num_attention_heads": 3, "num_key_value_heads": 1, "vocab_size": 50},
        {"hidden_size": 64, "head_dim": 128, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 17},
        {"hidden_size": 32, "head_dim": 256, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 100},
        {"hidden_size": 64, "head_dim": 16, "num_attention_heads": 48, "num_key_value_heads": 1},
    ],
    ids=lambda shape: "-".join(str(value) for value in shape.values()),
)
def test_odd_shapes(shape: dict[str, int], isa: str, write_model: Callable[..., Path], load_isa: Load) -> None:
    """Sizes that end within a vector, a tile or a line of the cache, and 48 query heads to a key-value head."""
    directory = write_model("qwen3", dtype=torch.bfloat16, **shape)
    ids = tuple(token % shape.get("vocab_size", 320) for token in prompt(140))
    exact, error = oracle(directory, ids)
    assert_close(isa, ours(load_isa(directory, slots=2), ids, 133), exact, error)


@pytest.mark.parametrize("name", ["llama3", "qwen3", "phi3", "qwen2"])
def test_int8_weights_stay_close(name: str, isa: str, bf16_directories: Callable[[str], Path], load_isa: Load) -> None:
    """int8 weights and activations take half the memory, and move logits by less than a tenth of their spread."""
    directory = bf16_directories(name)
    ids = prompt(LENGTH)
    whole, half = load_isa(directory), load_isa(directory, quantize=Quantize.INT8)
    assert half.capabilities.quantize == "int8"
    assert 2 * half.weights_bytes == whole.weights_bytes
    expected = ours(whole, ids, 140)
    difference = (ours(half, ids, 140) - expected).abs().mean()
    assert 0 < difference <= 0.1 * expected.std(), float(difference / expected.std())
