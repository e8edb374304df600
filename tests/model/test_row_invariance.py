"""A row has the same bits alone, beside any neighbours, however its prompt was cut, and in any cache blocks: on the
torch graph in fp32, on the native kernels in every variant, with bf16 and with int8 weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runs import Text, generate, logits, prompt, row
from tiny_models import FAMILIES

from llorch.batching.plan import Copy, Draw, Row, StepPlan
from llorch.batching.sequence import SamplingParams
from llorch.model import LoadedModel

LENGTH = 150
Load = Callable[..., LoadedModel]


@pytest.mark.parametrize(("name", "threads"), [*((name, 1) for name in FAMILIES), ("llama3", 2)])
def test_bits_do_not_depend_on_chunks_or_neighbours(
    name: str, threads: int, directories: Callable[[str], Path], load: Load
) -> None:
    """Logits after the last position: prefilled whole, in chunks, decoded alone, and beside 7 neighbours."""
    model = load(directories(name), threads=threads)
    assert model.capabilities.row_invariant
    ids = prompt(LENGTH)
    run = model.runner
    whole = logits(run, row(ids, 0, LENGTH, (0, 1)))
    for cut in (1, 16, 77, 128, 140):
        logits(run, row(ids, 0, cut, (6, 7), draws=0))
        assert torch.equal(logits(run, row(ids, cut, LENGTH, (6, 7))), whole)
    decoded = [logits(run, row(ids, at, at + 1, (10, 11))) for at in range(LENGTH)]
    assert torch.equal(decoded[-1], whole)
    others = [prompt(11 + 9 * number, number) for number in range(7)]
    neighbours = [row(other, 0, len(other) - 1, (2 * at,)) for at, other in enumerate(others)]
    logits(run, row(ids, 0, LENGTH - 1, (14, 15)), *neighbours)
    beside = [row(other, len(other) - 1, len(other), (2 * at,)) for at, other in enumerate(others)]
    together = logits(run, *beside, row(ids, LENGTH - 1, LENGTH, (14, 15)))
    assert torch.equal(together[-1:], whole)


@pytest.mark.parametrize("name", ["llama3", "qwen2_window", "phi3_long", "qwen3"])
def test_bits_do_not_depend_on_the_numbers_of_blocks(name: str, directories: Callable[[str], Path], load: Load) -> None:
    """Blocks one after the other, backwards, scattered: the same bits, in prefill and in decoding."""
    run = load(directories(name)).runner
    ids = prompt(300)
    whole = logits(run, row(ids, 0, 300, (0, 1, 2), draws=9))
    for blocks in ((9, 5, 20), (12, 11, 10), (3, 4, 17)):
        assert torch.equal(logits(run, row(ids, 0, 300, blocks, draws=9)), whole)
        single = torch.cat([logits(run, row(ids, at, at + 1, blocks)) for at in range(291, 300)])
        assert torch.equal(single, whole)


def test_a_shared_block_serves_two_sequences(directories: Callable[[str], Path], load: Load) -> None:
    """Two sequences with the same first 128 tokens, the second starting behind them in the first one's block."""
    run = load(directories("llama3")).runner
    beginning = prompt(128)
    one, other = (*beginning, *prompt(40, 2)), (*beginning, *prompt(30, 3))
    alone = logits(run, row(other, 0, 158, (8, 9)))
    expected = logits(run, row(one, 0, 168, (0, 5)))
    assert torch.equal(logits(run, row(other, 128, 158, (0, 3))), alone)
    both = logits(run, row(other, 157, 158, (0, 3)), row(one, 167, 168, (0, 5)))
    assert torch.equal(both, torch.cat([alone, expected]))


def test_a_copied_block_is_continued(directories: Callable[[str], Path], load: Load) -> None:
    """A block that fits in part: its first positions are copied before the rows, and what follows has the same bits."""
    run = load(directories("llama3")).runner
    one = prompt(200)
    other = (*one[:170], *prompt(20, 4))
    alone = logits(run, row(other, 0, 190, (8, 9)))
    logits(run, row(one, 0, 200, (0, 1)))
    draw = Draw(SamplingParams(temperature=0.0), 0)
    rest = Row("other", 170, other[170:-1], (draw,), (0, 6))
    beside = row(one, 199, 200, (0, 1))
    run.run(StepPlan((beside, rest), (Copy(1, 6, 42),)))
    assert torch.equal(logits(run, row(other, 189, 190, (0, 6))), alone)


@pytest.mark.parametrize("name", ["llama3", "mistral", "phi3"])
def test_several_draws_equal_single_steps(name: str, directories: Callable[[str], Path], load: Load) -> None:
    """A row with draws after its last positions, over the edge of a block, gives each the bits of a step of its own."""
    model = load(directories(name))
    ids = prompt(131)
    logits(model.runner, row(ids, 0, 124, (0, 1), draws=0))
    single = torch.cat([logits(model.runner, row(ids, at, at + 1, (0, 1))) for at in range(124, 131)])
    several = logits(model.runner, row(prompt(9, 2), 0, 9, (4,)), row(ids, 124, 131, (0, 1), draws=7))
    assert torch.equal(several[1:], single)
    params = SamplingParams(temperature=0.8, seed=5)
    draws = tuple(Draw(params, index) for index in range(7))
    together = model.runner.run(StepPlan((Row("a", 124, ids[124:], draws, (0, 1)),)))[0]
    steps = [Row("a", 124 + at, ids[124 + at : 125 + at], draws[at : at + 1], (0, 1)) for at in range(7)]
    assert together == tuple(model.runner.run(StepPlan((step,)))[0][0] for step in steps)


def test_wide_matmuls_keep_their_bits(write_model: Callable[..., Path], load: Load) -> None:
    """K above 1024, where a lone row would take another kernel, is invariant too."""
    model = load(write_model("llama2", intermediate_size=2816, num_hidden_layers=1))
    ids = prompt(50)
    whole = logits(model.runner, row(ids, 0, 50, (0,)))
    assert torch.equal(logits(model.runner, row(ids, 49, 50, (0,))), whole)
    assert model.capabilities.row_invariant


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_text_is_the_same_alone_in_company_chunked_and_resumed(
    temperature: float, directories: Callable[[str], Path], load: Load
) -> None:
    """One text alone, beside neighbours, in small chunks, resumed on another worker."""
    directory = directories("llama3")
    model = load(directory)
    params = SamplingParams(
        temperature=temperature, repetition_penalty=1.1, presence_penalty=0.3, frequency_penalty=0.2, seed=11
    )

    def text(number: int, resumed: tuple[int, ...] = (), length: int = 140) -> Text:
        return Text(prompt(length, number), (2 * number - 2, 2 * number - 1), 40, params, resumed)

    first = text(1)
    generate(model, [first], 256)
    alone = first.generated
    assert len(alone) == 40
    for chunk, count in ((48, 8), (9, 3)):
        again = text(1)
        generate(model, [text(number, length=20 * number) for number in range(2, count + 1)] + [again], chunk)
        assert again.generated == alone
    other_worker = load(directory, threads=2)
    for relayed in (1, 17, 39):
        resumed = text(1, alone[:relayed])
        generate(other_worker, [resumed], 64)
        assert resumed.generated == alone
