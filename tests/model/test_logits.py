"""The torch graph's logits against `transformers`, the numeric oracle, in fp32."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from runs import logits, prompt, row
from tiny_models import FAMILIES, LONG_FROM

from llorch.model import Dtype, Kernels, LoadedModel, hardware, load_model

LENGTH = 150
BLOCKS = (1, 0)

Load = Callable[..., LoadedModel]


def oracle(directory: Path, ids: tuple[int, ...]) -> torch.Tensor:
    """Logits of every position, [length, vocab], by transformers in fp32."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0]


def ours(model: LoadedModel, ids: tuple[int, ...], prefill: int, *, stretch: bool = False) -> torch.Tensor:
    """Logits after a prefill of `prefill` tokens and after each decoded one, [length - prefill + 1, vocab]."""
    rows = [row(ids, 0, prefill, BLOCKS, stretch=stretch)]
    rows += [row(ids, at, at + 1, BLOCKS, stretch=stretch) for at in range(prefill, len(ids))]
    return torch.cat([logits(model.runner, part) for part in rows])


@pytest.mark.parametrize("name", FAMILIES)
def test_prefill_and_decode_equal_transformers(name: str, directories: Callable[[str], Path], load_torch: Load) -> None:
    """Prefill (over a block of 128) and decode agree with transformers to 1e-3 for every family."""
    directory = directories(name)
    model = load_torch(directory, slots=2)
    assert model.config.long_from == LONG_FROM.get(name)
    ids = prompt(LENGTH)
    expected = oracle(directory, ids)
    stretch = name in LONG_FROM
    for prefill in (1, 140):
        difference = (ours(model, ids, prefill, stretch=stretch) - expected[prefill - 1 :]).abs().max()
        assert difference <= 1e-3


@pytest.mark.parametrize("name", LONG_FROM)
def test_both_sets_of_frequencies(name: str, directories: Callable[[str], Path], load_torch: Load) -> None:
    """Up to `long_from` positions the short factors hold, from one more the long ones; both sets beside each other."""
    directory = directories(name)
    model = load_torch(directory, slots=2)
    edge = LONG_FROM[name]
    ids = prompt(edge + 1)
    short, long = oracle(directory, ids[:-1])[-1], oracle(directory, ids)[-1]
    rows = (row(ids, 0, edge, (0,)), row(ids, 0, edge + 1, (1,), stretch=True), row(ids, 0, edge + 1, (2,)))
    got = logits(model.runner, *rows)
    assert (got[0] - short).abs().max() <= 1e-3
    assert (got[1] - long).abs().max() <= 1e-3
    assert (got[2] - long).abs().max() > 1e-2


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama3", "qwen3", "phi3"])
def test_sharded_half_precision_sources(
    name: str, stored: torch.dtype, write_model: Callable[..., Path], load_torch: Load
) -> None:
    """A sharded checkpoint stored in half precision, computed in fp32, agrees with transformers to 1e-3."""
    directory = write_model(name, shards="60KB", dtype=stored)
    assert len(list(directory.glob("*.safetensors"))) > 2
    ids = prompt(40)
    model = load_torch(directory, slots=1)
    assert (ours(model, ids, 30) - oracle(directory, ids)[29:]).abs().max() <= 1e-3


def test_shards_without_an_index(write_model: Callable[..., Path], load_torch: Load) -> None:
    """Shards load without their index, and a `consolidated` copy in another format is left alone."""
    directory = write_model("mistral", shards="60KB")
    ids = prompt(20)
    expected = oracle(directory, ids)[-1:]
    (directory / "model.safetensors.index.json").unlink()
    (directory / "consolidated.safetensors").write_bytes(b"not ours")
    model = load_torch(directory, slots=1)
    assert (ours(model, ids, 20) - expected).abs().max() <= 1e-3


def test_a_stored_head_wins_over_tying(write_model: Callable[..., Path], load_torch: Load) -> None:
    """A file with a head of its own means it, though config.json says that the head is tied."""
    directory = write_model("llama2")
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tie_word_embeddings": True}))
    ids = prompt(20)
    model = load_torch(directory, slots=1)
    assert (ours(model, ids, 20) - oracle(directory, ids)[-1:]).abs().max() <= 1e-3


@pytest.mark.skipif(not hardware.has_native_bf16(), reason="bf16 is refused on this processor")
@pytest.mark.parametrize("name", ["tinyllama", "qwen2_window", "mistral", "qwen3"])
def test_bf16_is_close_to_fp32(name: str, directories: Callable[[str], Path]) -> None:
    """bf16, with its fused attention, prefers the same tokens as fp32 in most positions, chunked or not."""
    directory = directories(name)
    ids = prompt(LENGTH)
    expected = ours(load_model(directory, kernels=Kernels.TORCH, dtype=Dtype.FP32, slots=1, threads=1), ids, 100)
    model = load_model(directory, kernels=Kernels.TORCH, dtype=Dtype.BF16, slots=1, threads=1)
    got = ours(model, ids, 100)
    assert not model.capabilities.row_invariant
    scale = expected.std()
    assert (got - expected).abs().mean() <= 0.06 * scale
    parts = [row(ids, start, stop, BLOCKS) for start, stop in ((0, 50), (50, 77), (77, 100))]
    chunked = torch.cat([logits(model.runner, part) for part in parts])[-1]
    assert (chunked - got[0]).abs().mean() <= 0.06 * scale
