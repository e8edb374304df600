"""The native sampler draws the very tokens that the torch one draws, and reports the same logprobs."""

from __future__ import annotations

import ctypes
import math
import random
from collections.abc import Callable, Iterator

import pytest
import torch
from variants import ISAS, built

from llorch.batching.plan import Draw, Drawn
from llorch.batching.sequence import SamplingParams
from llorch.model.graph.sampler import Sampler
from llorch.model.kernels import library as native
from llorch.model.kernels.library import Isa
from llorch.model.kernels.runner import Runner

DRAWS_MAX = 64
Draws = Callable[[torch.Tensor, list[Draw]], list[Drawn]]


class NoCheckpoint:
    """A model of no layers has no files."""

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture(params=ISAS)
def draw(request: pytest.FixtureRequest) -> Iterator[Draws]:
    """`draw(logits [rows, vocab], draws)` by one variant, with two threads."""
    isa = Isa(request.param)
    library = native.open_library(native.library_path(built(isa), isa))
    runners: dict[int, tuple[Runner, int]] = {}

    def drawn(logits: torch.Tensor, draws: list[Draw]) -> list[Drawn]:
        vocab = logits.shape[1]
        if vocab not in runners:
            sizes = dict.fromkeys(("hidden", "head_dim", "intermediate"), 16) | {"heads": 1, "kv_heads": 1}
            shape = native.Shape(**sizes, vocab=vocab, blocks=1, rows_max=1, draws_max=DRAWS_MAX, frequency_sets=1)
            engine = library.llorch_create(ctypes.byref(shape), 2)
            runners[vocab] = (Runner(library, engine, shape, NoCheckpoint(), lambda: 2), engine)  # type: ignore[arg-type]
        runner, engine = runners[vocab]
        for index, row in enumerate(logits.tolist()):
            held = (ctypes.c_float * vocab)(*row)
            ctypes.memmove(library.llorch_logits(engine, index), held, ctypes.sizeof(held))
        return runner._draw(draws, 2)

    yield drawn
    for runner, _ in runners.values():
        runner.close()


def random_params(chance: random.Random, vocab: int) -> SamplingParams:
    """Everything that can be asked for, each on its own often enough."""

    def some(usual: float, *others: float) -> float:
        return usual if chance.random() < 0.6 else chance.choice(others)

    bias = [(chance.randrange(vocab + 5), chance.uniform(-6, 6)) for _ in range(chance.choice((0, 0, 0, 1, 7)))]
    return SamplingParams(
        temperature=some(1.0, 0.0, 0.3, 0.7, 2.0, 1e-3),
        top_k=int(some(0, 1, 2, 5, 40, vocab, vocab + 9)),
        top_p=some(1.0, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.999),
        min_p=some(0.0, 0.05, 0.1, 0.5, 1.0),
        repetition_penalty=some(1.0, 1.1, 1.5, 0.8),
        presence_penalty=some(0.0, 0.4, -0.3, 1.7),
        frequency_penalty=some(0.0, 0.3, -0.1, 1.1),
        logit_bias=tuple(bias),
        logprobs=chance.choice((None, None, 0, 1, 5, 20)),
        seed=chance.getrandbits(64),
    )


def random_logits(chance: random.Random, vocab: int) -> torch.Tensor:
    """Smooth ones, ones with many ties, flat ones, and ones with -inf."""
    generator = torch.Generator().manual_seed(chance.getrandbits(32))
    logits = torch.randn(vocab, generator=generator) * chance.choice((0.1, 1.0, 3.0, 10.0))
    kind = chance.choice(("smooth", "smooth", "ties", "flat", "holes"))
    if kind == "ties":
        return (logits * 2).round() / 2
    if kind == "flat":
        return torch.full((vocab,), chance.choice((0.0, -3.5, 20.0)))
    if kind == "holes":
        logits[torch.rand(vocab, generator=generator) < 0.7] = -math.inf
        logits[chance.randrange(vocab)] = 1.0
    return logits


def assert_same(got: list[Drawn], expected: list[Drawn], draws: list[Draw]) -> None:
    for one, other, asked in zip(got, expected, draws, strict=True):
        assert one.token_id == other.token_id, asked
        assert (one.logprob is None) == (other.logprob is None)
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert [token for token, _ in one.top] == [token for token, _ in other.top], asked
        assert [value for _, value in one.top] == pytest.approx([value for _, value in other.top], abs=1e-4)


@pytest.mark.parametrize("vocab", [1, 2, 15, 50, 1023, 5000])
def test_draws_equal_the_torch_sampler(vocab: int, draw: Draws) -> None:
    """Token for token over random logits, parameters and histories; logprobs to 1e-4."""
    chance = random.Random(vocab)
    for _ in range(max(4, min(20, 12000 // vocab))):
        draws = []
        for _ in range(DRAWS_MAX):
            history = tuple(chance.randrange(vocab + 3) for _ in range(chance.choice((0, 3, 60))))
            params = random_params(chance, vocab)
            draws.append(Draw(params, chance.randrange(500), history, chance.randrange(len(history) + 1)))
        logits = torch.stack([random_logits(chance, vocab) for _ in draws])
        assert_same(draw(logits, draws), Sampler(vocab).draw(logits, draws), draws)


def test_ties_at_the_edges(draw: Draws) -> None:
    """Equal logits: greedy takes the lowest id, top-k keeps all of them, top-p the lowest, at any temperature."""
    vocab = 10
    logits = torch.zeros(DRAWS_MAX, vocab)
    logits[:, :3] = -1.0
    for options in (
        {"temperature": 0.0},
        {"top_k": 2},
        *({"top_p": share} for share in (0.1, 0.2, 0.3, 0.6, 0.7, 0.9)),
        {"min_p": 1.0},
        {"temperature": 1e-4},
        {"temperature": 1e-4, "logit_bias": ((5, 60.0), (7, 60.0))},
    ):
        for flat in (logits, logits * 0, logits + 40):
            params = {"temperature": 1.0, **options}
            draws = [Draw(SamplingParams(**params, seed=seed), seed) for seed in range(DRAWS_MAX)]  # type: ignore[arg-type]
            assert_same(draw(flat, draws), Sampler(vocab).draw(flat, draws), draws)


def test_ids_beyond_the_vocabulary_are_ignored(draw: Draws) -> None:
    """Biased ids below 0 or beyond the vocabulary, and a history of others' ids, change nothing."""
    logits = torch.tensor([[1.0, 2.0, 0.0]])
    params = SamplingParams(
        temperature=0.0,
        repetition_penalty=9.0,
        frequency_penalty=9.0,
        logit_bias=((-1, 9.0), (3, 9.0), (2**31 - 1, 9.0)),
    )
    assert draw(logits, [Draw(params, 0, (3, 2**31 - 1), 1)]) == [Drawn(1)]


@pytest.mark.parametrize("holes", [[0], [3], [0, 1, 2, 3, 4, 5, 6, 7], [17, 2, 33], list(range(40))])
@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.0}, {}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.2}, {"top_k": 9, "top_p": 0.5, "min_p": 0.1}],
)
def test_nan_is_never_drawn(holes: list[int], options: dict[str, float], draw: Draws) -> None:
    """Logits that are not numbers count as -inf: the others are drawn as ever; with nothing but them, something is."""
    vocab = 40
    clean = torch.randn(DRAWS_MAX, vocab, generator=torch.Generator().manual_seed(3))
    clean[:, holes] = -math.inf
    broken = clean.clone()
    broken[:, holes] = math.nan
    params = {"temperature": 1.0, **options}
    draws = [Draw(SamplingParams(**params, seed=seed), seed) for seed in range(DRAWS_MAX)]  # type: ignore[arg-type]
    got = draw(broken, draws)
    assert all(0 <= one.token_id < vocab for one in got)
    assert got == draw(clean, draws)


@pytest.mark.parametrize(
    "params",
    [SamplingParams(temperature=1.0), SamplingParams(temperature=0.5), SamplingParams(temperature=1.0, top_k=12)],
)
def test_distribution(params: SamplingParams, draw: Draws) -> None:
    """Over 6,400 indexes counts fit the softmax over 20 tokens (chi-square below its 0.1 % bound of 43.8)."""
    vocab = 20
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(5))
    scaled = logits / params.temperature
    if params.top_k:
        scaled = scaled.masked_fill(scaled < scaled.topk(params.top_k).values[-1], -math.inf)
    expected = torch.softmax(scaled.double(), 0) * 100 * DRAWS_MAX
    drawn = []
    for start in range(0, 100 * DRAWS_MAX, DRAWS_MAX):
        draws = [Draw(params, start + at) for at in range(DRAWS_MAX)]
        drawn += [one.token_id for one in draw(logits.expand(DRAWS_MAX, -1), draws)]
    counts = torch.bincount(torch.tensor(drawn), minlength=vocab)
    assert (counts[expected == 0] == 0).all()
    kept = expected > 0
    assert ((counts[kept] - expected[kept]) ** 2 / expected[kept]).sum() < 43.8
