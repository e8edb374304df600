"""A token whose weights are no numbers spoils the sequences that contain it, from there on, and no others."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runs import logits, prompt, row
from safetensors.torch import load_file, save_file
from variants import ISAS, load_native

from llorch.batching.plan import Copy, Row, StepPlan
from llorch.model import LoadedModel, Quantize

POISON = 9
Load = Callable[..., LoadedModel]


@pytest.fixture(params=[f"{isa}{int8}" for isa in ISAS for int8 in ("", "-int8")])
def load_exact(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Load:
    isa, _, int8 = request.param.partition("-")
    quantize = Quantize.INT8 if int8 else Quantize.NONE
    return functools.partial(load_native, monkeypatch, isa, quantize=quantize)


@pytest.fixture(scope="session")
def poisoned(write_model: Callable[..., Path]) -> Path:
    """A model with one token whose embedding is NaN."""
    directory = write_model("llama3", dtype=torch.bfloat16)
    path = directory / "model.safetensors"
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"][POISON] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    return directory


def clean(length: int, seed: int) -> tuple[int, ...]:
    return tuple(POISON + 1 if token == POISON else token for token in prompt(length, seed))


def test_nan_stays_in_its_sequence(poisoned: Path, load_exact: Load) -> None:
    """Not in a neighbour, not in whoever gets its blocks, not in whoever goes on from a copy, not backwards in time."""
    runner = load_exact(poisoned).runner
    ids = clean(200, 1)
    expected = logits(runner, row(ids, 0, 200, (0, 1), draws=200))
    assert expected.isfinite().all()
    spoilt = (*ids[:150], POISON, *ids[151:])
    got = logits(runner, row(spoilt, 0, 200, (2, 3), draws=200), row(clean(40, 2), 0, 40, (4,)))
    assert got[200:].isfinite().all(), "a neighbour"
    assert torch.equal(got[:150], expected[:150]), "the positions before it"
    assert got[150:200].isnan().all(), "the positions that see it"
    for cut in (149, 150):  # a rejected draft, or a copied block, whose next positions are spoilt
        assert torch.equal(logits(runner, row(ids, cut, 200, (2, 3), draws=50)), expected[150:]), (
            "the blocks' next rows"
        )
        logits(runner, row(spoilt, 140, 200, (2, 3), draws=1))
    runner.run(StepPlan((Row("copied", 150, ids[150:199], (), (2, 5)),), (Copy(3, 5, 22),)))
    assert torch.equal(logits(runner, row(ids, 199, 200, (2, 5))), expected[-1:]), "a copy"
    logits(runner, row((POISON,) * 200, 0, 200, (2, 3)))
    at_once = logits(runner, row(ids, 0, 30, (3,), draws=30))
    one_by_one = [logits(runner, row(ids, at, at + 1, (2,))) for at in range(30)]
    assert torch.equal(torch.cat(one_by_one), at_once) and torch.equal(at_once, expected[:30]), "used blocks"
