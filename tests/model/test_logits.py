"""Our logits against `transformers`, the numeric oracle, in fp32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from tiny_models import FAMILIES, VOCAB

from llorch.batching.planner import Draw, Row
from llorch.batching.sequence import SamplingParams
from llorch.model import Dtype, LoadedModel, hardware, load_model

LENGTH = 150
GREEDY = Draw(SamplingParams(temperature=0.0), 0)


def prompt(length: int = LENGTH, seed: int = 1) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(0, VOCAB, (length,), generator=generator).tolist())


def oracle(directory: Path, ids: tuple[int, ...]) -> torch.Tensor:
    """Logits of every position, [length, vocab], by transformers in fp32."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0]


def ours(model: LoadedModel, ids: tuple[int, ...], prefill: int) -> torch.Tensor:
    """Logits after a prefill of `prefill` tokens and after each decoded one, [length - prefill + 1, vocab]."""
    rows = [Row("job", 0, 0, ids[:prefill], GREEDY)]
    rows += [Row("job", 0, at, ids[at : at + 1], GREEDY) for at in range(prefill, len(ids))]
    return torch.cat([model.runner.logits((row,)) for row in rows])


@pytest.mark.parametrize("name", FAMILIES)
def test_prefill_and_decode_equal_transformers(name: str, directories: Callable[[str], Path]) -> None:
    """Prefill (over a block of 128) and decode agree with transformers to 1e-3 for every family."""
    directory = directories(name)
    ids = prompt()
    expected = oracle(directory, ids)
    model = load_model(directory, dtype=Dtype.FP32, slots=2, threads=1)
    for prefill in (1, 140):
        difference = (ours(model, ids, prefill) - expected[prefill - 1 :]).abs().max()
        assert difference <= 1e-3


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_sharded_half_precision_sources(stored: torch.dtype, write_model: Callable[..., Path]) -> None:
    """A sharded checkpoint stored in half precision, computed in fp32, agrees with transformers to 1e-3."""
    directory = write_model("llama3", shards="60KB", dtype=stored)
    assert len(list(directory.glob("*.safetensors"))) > 2
    ids = prompt(40)
    model = load_model(directory, dtype=Dtype.FP32, slots=1, threads=1)
    assert (ours(model, ids, 30) - oracle(directory, ids)[29:]).abs().max() <= 1e-3


def test_shards_without_an_index(write_model: Callable[..., Path]) -> None:
    """Shards load without their index, and a `consolidated` copy in another format is left alone."""
    directory = write_model("mistral", shards="60KB")
    ids = prompt(20)
    expected = oracle(directory, ids)[-1:]
    (directory / "model.safetensors.index.json").unlink()
    (directory / "consolidated.safetensors").write_bytes(b"not ours")
    model = load_model(directory, slots=1, threads=1)
    assert (ours(model, ids, 20) - expected).abs().max() <= 1e-3


@pytest.mark.skipif(not hardware.has_native_bf16(), reason="bf16 is refused on this processor")
@pytest.mark.parametrize("name", ["tinyllama", "qwen2_window", "mistral"])
def test_bf16_is_close_to_fp32(name: str, directories: Callable[[str], Path]) -> None:
    """bf16, with its fused attention, prefers the same tokens as fp32 in most positions, chunked or not."""
    directory = directories(name)
    ids = prompt()
    expected = ours(load_model(directory, dtype=Dtype.FP32, slots=1, threads=1), ids, 100)
    model = load_model(directory, dtype=Dtype.BF16, slots=1, threads=1)
    got = ours(model, ids, 100)
    assert not model.capabilities.row_invariant
    scale = expected.std()
    assert (got - expected).abs().mean() <= 0.05 * scale
    parts = [Row("job", 0, a, ids[a:b], GREEDY) for a, b in ((0, 50), (50, 77), (77, 100))]
    chunked = torch.cat([model.runner.logits((row,)) for row in parts])[-1]
    assert (chunked - got[0]).abs().mean() <= 0.05 * scale
