"""In fp32 a row has the same bits alone, beside any neighbours, however its prompt was cut, and on another slot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import CONTEXT, FAMILIES, VOCAB

from llorch.batching.planner import Draw, Outcome, Planner, Row
from llorch.batching.sequence import SamplingParams, Sequence
from llorch.model import Dtype, LoadedModel, load_model

DRAW = Draw(SamplingParams(temperature=0.0), 0)
LENGTH = 150


def prompt(length: int, seed: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(0, VOCAB, (length,), generator=generator).tolist())


def load(directory: Path, threads: int = 1) -> LoadedModel:
    return load_model(directory, dtype=Dtype.FP32, slots=8, threads=threads)


def generate(model: LoadedModel, sequences: list[Sequence], step_tokens: int) -> dict[str, tuple[int, ...]]:
    """Run sequences to their end, all at once; generated ids by job."""
    planner = Planner(slots=8, context=CONTEXT, step_tokens=step_tokens)
    out: dict[str, tuple[int, ...]] = {s.job_id: s.resumed_ids for s in sequences}
    for sequence in sequences:
        planner.add(sequence)
    while planner.live:
        plan = planner.plan()
        outcomes: list[Outcome] = planner.commit(plan, model.runner.run(plan))
        for outcome in outcomes:
            out[outcome.job_id] += outcome.token_ids
    return out


@pytest.mark.parametrize(("name", "threads"), [*((name, 1) for name in FAMILIES), ("llama3", 2)])
def test_bits_do_not_depend_on_chunks_or_neighbours(
    name: str, threads: int, directories: Callable[[str], Path]
) -> None:
    """Logits after each of the last positions: prefilled whole, in chunks, decoded alone, and beside 7 neighbours."""
    model = load(directories(name), threads)
    assert model.capabilities.row_invariant
    ids = prompt(LENGTH, 1)
    whole = model.runner.logits((Row("a", 0, 0, ids, DRAW),))
    for cut in (1, 16, 77, 128, 140):
        model.runner.logits((Row("a", 3, 0, ids[:cut], None),))
        assert torch.equal(model.runner.logits((Row("a", 3, cut, ids[cut:], DRAW),)), whole)
    decoded = [model.runner.logits((Row("a", 5, at, ids[at : at + 1], DRAW),)) for at in range(LENGTH)]
    assert torch.equal(decoded[-1], whole)
    neighbours = [Row(f"n{slot}", slot, 0, prompt(10 + 9 * slot, slot), DRAW) for slot in range(7)]
    model.runner.logits((Row("a", 7, 0, ids[:-1], DRAW), *neighbours))
    beside = [Row(row.job_id, row.slot, len(row.token_ids), (slot,), DRAW) for slot, row in enumerate(neighbours)]
    together = model.runner.logits((*beside, Row("a", 7, LENGTH - 1, ids[-1:], DRAW)))
    assert torch.equal(together[-1:], whole)


def test_wide_matmuls_keep_their_bits(write_model: Callable[..., Path]) -> None:
    """K above 1024, where a lone row would take another kernel, is invariant too."""
    directory = write_model("llama2", intermediate_size=2816, num_hidden_layers=1)
    model = load(directory)
    ids = prompt(50, 1)
    whole = model.runner.logits((Row("a", 0, 0, ids, DRAW),))
    alone = model.runner.logits((Row("a", 0, 49, ids[-1:], DRAW),))
    assert torch.equal(whole, alone)
    assert model.capabilities.row_invariant


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_text_is_the_same_alone_in_company_chunked_and_resumed(
    temperature: float, directories: Callable[[str], Path]
) -> None:
    """Through planner and runner: one text alone, beside neighbours, in small chunks, resumed on another worker."""
    directory = directories("llama3")
    model = load(directory)
    params = SamplingParams(temperature=temperature, repetition_penalty=1.1, seed=11)

    def job(name: str, seed: int, resumed: tuple[int, ...] = (), length: int = 140) -> Sequence:
        return Sequence(name, prompt(length, seed), 40, params, resumed_ids=resumed)

    alone = generate(model, [job("a", 1)], 256)["a"]
    assert len(alone) == 40

    def others() -> list[Sequence]:
        return [job(f"n{seed}", seed, length=20 * seed) for seed in range(2, 9)]

    assert generate(model, [job("a", 1), *others()], 48)["a"] == alone
    assert generate(model, [*others()[:2], job("a", 1)], 9)["a"] == alone
    other_worker = load(directory, threads=2)
    for relayed in (1, 17, 39):
        assert generate(other_worker, [job("a", 1, alone[:relayed])], 64)["a"] == alone
