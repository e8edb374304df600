"""Sampling: seeds reproduce, neighbours do not matter, filters equal a dumb reference, the distribution is right."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llorch.batching.plan import Draw, Drawn
from llorch.batching.sequence import SamplingParams
from llorch.model.graph.sampler import Sampler, adjust, restrict, uniform_noise

VOCAB = 50


def logits_of(seed: int, rows: int = 1, vocab: int = VOCAB) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 2


def dumb_kept(logits: list[float], params: SamplingParams) -> set[int]:
    """Top-k, then top-p, then min-p, on sorted Python lists."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    if params.top_k:
        order = [i for i in order if logits[i] >= logits[order[min(params.top_k, len(order)) - 1]]]
    total = sum(math.exp(logits[i]) for i in order)
    if params.top_p < 1.0:
        kept, reached = [], 0.0
        for i in order:
            kept.append(i)
            reached += math.exp(logits[i]) / total
            if reached >= params.top_p - 1e-9:
                break
        order = kept
    best = math.exp(logits[order[0]])
    return {i for i in order if math.exp(logits[i]) >= best * params.min_p}


@settings(max_examples=200)
@given(
    st.lists(st.integers(-8, 8), min_size=1, max_size=12),
    st.integers(0, 14),
    st.sampled_from([0.0, 0.13, 0.5, 0.77, 0.95, 1.0]),
    st.sampled_from([0.0, 0.07, 0.5, 1.0]),
)
def test_filters_equal_a_dumb_reference(values: list[int], top_k: int, top_p: float, min_p: float) -> None:
    """top-k, top-p and min-p, alone and together, keep the tokens that sorted lists keep, ties included."""
    logits = torch.tensor([value * 0.7 for value in values]).tolist()
    params = SamplingParams(top_k=top_k, top_p=top_p, min_p=min_p)
    kept = restrict(torch.tensor(logits), params)
    assert set(torch.nonzero(kept > -math.inf).flatten().tolist()) == dumb_kept(logits, params)


def test_top_p_beyond_the_first_look() -> None:
    """Over a flat vocabulary larger than the first look, top-p still keeps its share, lowest ids first."""
    kept = restrict(torch.zeros(5000), SamplingParams(top_p=0.5))
    assert torch.nonzero(kept > -math.inf).flatten().tolist() == list(range(2500))


def test_top_p_within_the_first_look() -> None:
    """Where equal logits reach beyond the first look, the lowest ids are kept all the same."""
    logits = torch.zeros(5000)
    logits[4000] = 1.0
    kept = restrict(logits, SamplingParams(top_p=0.1))
    assert torch.nonzero(kept > -math.inf).flatten().tolist() == [*range(498), 4000]


def adjusted(
    logits: list[float], params: SamplingParams, history: tuple[int, ...] = (), prompt_length: int = 0
) -> list[float]:
    values: list[float] = adjust(torch.tensor(logits), Draw(params, 0, history, prompt_length)).tolist()
    return values


def test_repetition_penalty() -> None:
    """Seen tokens: positive logits are divided, negative ones multiplied; ids beyond the vocabulary are ignored."""
    params = SamplingParams(repetition_penalty=2.0)
    assert adjusted([2.0, -2.0, 1.0], params, (0, 1, 1, 9)) == [1.0, -4.0, 1.0]
    assert adjusted([2.0, -2.0, 1.0], params, (0, 1, 1, 9), 4) == [1.0, -4.0, 1.0]


def test_presence_and_frequency_penalties() -> None:
    """They count generated tokens only: presence once, frequency each time; negative ones encourage."""
    history = (0, 0, 1, 2, 2, 2, 9)
    logits = [1.0, 1.0, 1.0, 1.0]
    assert adjusted(logits, SamplingParams(presence_penalty=0.5), history, 2) == [1.0, 0.5, 0.5, 1.0]
    assert adjusted(logits, SamplingParams(frequency_penalty=0.25), history, 2) == [1.0, 0.75, 0.25, 1.0]
    both = SamplingParams(presence_penalty=0.5, frequency_penalty=-0.25)
    assert adjusted(logits, both, history, 2) == [1.0, 0.75, 1.25, 1.0]
    assert adjusted(logits, both, history, 7) == logits


def test_bias_comes_before_the_penalties() -> None:
    """A bias is added to its token's logit first; ids beyond the vocabulary are ignored."""
    params = SamplingParams(logit_bias=((1, 3.0), (0, -1.0), (7, 5.0)), repetition_penalty=2.0)
    assert adjusted([1.0, -1.0, 1.0], params, (1,)) == [0.0, 1.0, 1.0]
    banned = SamplingParams(temperature=1.0, logit_bias=((3, -1e9),))
    drawn = Sampler(4).draw(torch.zeros(300, 4), [Draw(banned, index) for index in range(300)])
    assert {token.token_id for token in drawn} == {0, 1, 2}


def test_logprobs_are_the_models_own() -> None:
    """They are of the raw logits: bias, penalties and temperature change the token, not what is reported of it."""
    logits = torch.tensor([[2.0, 1.0, 1.0, 0.0]])
    expected = torch.log_softmax(logits[0].double(), 0).tolist()
    params = SamplingParams(temperature=0.0, logit_bias=((3, 9.0),), logprobs=3)
    drawn = Sampler(4).draw(logits, [Draw(params, 0)])[0]
    assert drawn == Drawn(3, expected[3], ((0, expected[0]), (1, expected[1]), (2, expected[2])))
    none = Sampler(4).draw(logits, [Draw(SamplingParams(temperature=0.0, logprobs=0), 0)])[0]
    assert none == Drawn(0, expected[0])
    every = Sampler(4).draw(logits, [Draw(SamplingParams(temperature=0.0, logprobs=20), 0)])[0]
    assert [token for token, _ in every.top] == [0, 1, 2, 3]
    assert Sampler(4).draw(logits, [Draw(SamplingParams(temperature=0.0), 0)]) == [Drawn(0)]


def test_greedy_takes_the_lowest_of_equal_ids() -> None:
    """temperature 0 is argmax, and the lowest id wins a tie."""
    logits = torch.zeros(1, 3000)
    logits[0, [700, 1500, 2900]] = 1.0
    assert Sampler(3000).draw(logits, [Draw(SamplingParams(temperature=0.0), 0)]) == [Drawn(700)]
    assert Sampler(3000).draw(logits, [Draw(SamplingParams(temperature=1e-9), 0)]) == [Drawn(700)]


def test_draws_depend_on_seed_and_index_only() -> None:
    """The same (seed, index) draws the same token in any row of any batch; another seed or index draws others."""
    sampler = Sampler(VOCAB)
    logits = logits_of(3).expand(8, -1)
    draws = [Draw(SamplingParams(temperature=1.0, seed=seed), index) for seed in (1, 2**64 - 1) for index in range(4)]
    together = sampler.draw(logits, draws)
    alone = [sampler.draw(logits[:1], [draw])[0] for draw in draws]
    assert together == alone
    assert sampler.draw(logits, draws[::-1]) == together[::-1]
    assert len(set(together)) > 3


def test_noise_is_splitmix64() -> None:
    """The hash, seen through its 53 top bits, is Python's own SplitMix64 on the same counters, and stays in (0, 1)."""
    mask = 2**64 - 1

    def mix(value: int) -> int:
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        return value ^ (value >> 31)

    gamma = 0x9E3779B97F4A7C15
    counters = Sampler(VOCAB)._counters
    for seed, index in ((0, 0), (2**64 - 1, 5), (2**53 + 1, 10**6)):
        key = mix((mix(seed) + (index + 1) * gamma) & mask)
        expected = [((mix((key + token * gamma) & mask) >> 11) + 0.5) * 2.0**-53 for token in range(VOCAB)]
        noise = uniform_noise(seed, index, counters)
        assert noise.tolist() == expected
        assert noise.min() > 0 and noise.max() < 1


@pytest.mark.parametrize("params", [SamplingParams(temperature=1.0), SamplingParams(temperature=0.5, top_k=5)])
def test_distribution(params: SamplingParams) -> None:
    """Over 4,000 seeds, and over 4,000 indexes, counts fit the softmax (chi-square far below its 0.1 % bound)."""
    vocab = 8
    logits = logits_of(5, vocab=vocab)
    kept = restrict(logits[0] / params.temperature, params)
    expected = torch.softmax(kept.double(), 0) * 4000
    sampler = Sampler(vocab)
    for vary in ("seed", "index"):
        draws = []
        for number in range(4000):
            seed, index = (number, 0) if vary == "seed" else (42, number)
            draws.append(Draw(SamplingParams(params.temperature, params.top_k, seed=seed), index))
        drawn = [token.token_id for token in sampler.draw(logits.expand(4000, -1), draws)]
        counts = torch.bincount(torch.tensor(drawn), minlength=vocab)
        assert (counts[expected == 0] == 0).all()
        positive = expected > 0
        chi_square = ((counts[positive] - expected[positive]) ** 2 / expected[positive]).sum()
        assert chi_square < 24.3
