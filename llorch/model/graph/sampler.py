"""Draws the next token from logits. The noise is a hash of (seed, index, token): no generator state, no neighbours.

Order: bias, penalties (repetition, then frequency and presence), temperature, top-k, top-p (over what top-k left),
min-p, then the Gumbel-max trick: the token with the largest logit + Gumbel noise is a draw from the softmax (E. J.
Gumbel, 1954). The hash is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA
2014) with the token id as counter.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llorch.batching.plan import Draw, Drawn
from llorch.batching.sequence import SamplingParams

GOLDEN_GAMMA = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
MASK_64 = 2**64 - 1
GREEDY_BELOW = 1e-5
PROBABILITY_ROUNDING = 1e-9
TOP_P_FIRST_LOOK = 1024
"""top-p sorts this many of the largest logits first, and the whole vocabulary only when they do not reach p."""


def _signed(value: int) -> int:
    """A uint64 as the int64 of the same bits, for torch."""
    return value - 2**64 if value >= 2**63 else value


def mix64(value: int) -> int:
    """SplitMix64's finaliser on a uint64."""
    value = ((value ^ (value >> 30)) * MIX_1) & MASK_64
    value = ((value ^ (value >> 27)) * MIX_2) & MASK_64
    return value ^ (value >> 31)


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """Logical shift of int64; torch's own keeps the sign."""
    return (value >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def uniform_noise(seed: int, index: int, counters: Tensor) -> Tensor:
    """Numbers in (0, 1), fp64, one per entry of `counters` [tokens] int64 = token id * GOLDEN_GAMMA (wrapped)."""
    key = mix64((mix64(seed) + (index + 1) * GOLDEN_GAMMA) & MASK_64)
    value = counters + _signed(key)
    value = value.bitwise_xor_(_shift_right(value, 30)).mul_(_signed(MIX_1))
    value = value.bitwise_xor_(_shift_right(value, 27)).mul_(_signed(MIX_2))
    value = value.bitwise_xor_(_shift_right(value, 31))
    return _shift_right(value, 11).double().add_(0.5).mul_(2.0**-53)


def adjust(logits: Tensor, draw: Draw) -> Tensor:
    """Logits [vocab] with bias and penalties; the same tensor when there are none. Ids beyond the vocabulary are
    ignored.
    """
    params = draw.params
    if params.logit_bias:
        biased = [(token, bias) for token, bias in params.logit_bias if 0 <= token < logits.shape[0]]
        ids = torch.tensor([token for token, _ in biased], dtype=torch.int64)
        logits = logits.index_add(0, ids, torch.tensor([bias for _, bias in biased], dtype=logits.dtype))
    if params.repetition_penalty != 1.0:
        logits = penalise_repetition(logits, draw.history, params.repetition_penalty)
    if params.presence_penalty != 0.0 or params.frequency_penalty != 0.0:
        generated = draw.history[draw.prompt_length :]
        logits = penalise_generated(logits, generated, params.presence_penalty, params.frequency_penalty)
    return logits


def penalise_repetition(logits: Tensor, history: tuple[int, ...], penalty: float) -> Tensor:
    """Logits with every token of `history` made less likely: positive ones divided, negative ones multiplied.

    Source: Keskar et al., "CTRL" (2019), with the sign rule of `transformers`.
    """
    seen = torch.tensor(sorted(set(history)), dtype=torch.int64)
    seen = seen[seen < logits.shape[0]]
    values = logits[seen]
    return logits.index_copy(0, seen, torch.where(values > 0, values / penalty, values * penalty))


def penalise_generated(logits: Tensor, generated: tuple[int, ...], presence: float, frequency: float) -> Tensor:
    """Logits less `presence`, and less `frequency` times its count, for every token of `generated`.

    Source: OpenAI's API reference, "Frequency and presence penalties".
    """
    ids = torch.tensor(generated, dtype=torch.int64)
    ids, counts = torch.unique(ids[ids < logits.shape[0]], return_counts=True)
    return logits.index_copy(0, ids, logits[ids] - counts.to(logits.dtype) * frequency - presence)


def restrict(logits: Tensor, params: SamplingParams) -> Tensor:
    """Logits [vocab] with the tokens outside top-k, top-p and min-p at -inf. The likeliest token always stays.

    Equal logits at the edge of top-k all stay; at the edge of top-p those with the lower id stay.
    """
    if 0 < params.top_k < logits.shape[0]:
        lowest = torch.topk(logits, params.top_k).values[-1]
        logits = logits.masked_fill(logits < lowest, -math.inf)
    if params.top_p < 1.0:
        logits = _restrict_top_p(logits, params.top_p)
    if params.min_p > 0.0:
        logits = logits.masked_fill(logits < logits.max() + math.log(params.min_p), -math.inf)
    return logits


def _restrict_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Keep the likeliest tokens up to the one with which their probability reaches `top_p`."""
    total = torch.logsumexp(logits.double(), 0)
    top_p -= PROBABILITY_ROUNDING
    for count in (min(TOP_P_FIRST_LOOK, logits.shape[0]), logits.shape[0]):
        ids = torch.nonzero(logits >= torch.topk(logits, count).values[-1]).flatten()
        values, order = torch.sort(logits[ids], descending=True, stable=True)
        reached = torch.exp(values.double() - total).cumsum(0)
        if reached[-1] >= top_p or count == logits.shape[0]:
            break
    kept = ids[order[: int((reached < top_p).sum()) + 1]]
    return torch.full_like(logits, -math.inf).index_copy_(0, kept, logits[kept])


class Sampler:
    """Draws for a vocabulary of one size."""

    def __init__(self, vocab_size: int) -> None:
        self._counters = torch.arange(vocab_size, dtype=torch.int64).mul_(_signed(GOLDEN_GAMMA))

    @torch.inference_mode()
    def draw(self, logits: Tensor, draws: list[Draw]) -> list[Drawn]:
        """One token per row of logits [rows, vocab] fp32."""
        return [self._draw_row(row, draw) for row, draw in zip(logits, draws, strict=True)]

    def _draw_row(self, logits: Tensor, draw: Draw) -> Drawn:
        token_id = self._choose(adjust(logits, draw), draw)
        count = draw.params.logprobs
        if count is None:
            return Drawn(token_id)
        logprobs = torch.log_softmax(logits.double(), 0)
        return Drawn(token_id, float(logprobs[token_id]), likeliest(logprobs, count))

    def _choose(self, logits: Tensor, draw: Draw) -> int:
        params = draw.params
        if params.temperature < GREEDY_BELOW:
            return int(torch.argmax(logits))
        logits = logits / params.temperature
        if params.top_k == 0 and params.top_p >= 1.0 and params.min_p <= 0.0:
            return _gumbel_max(logits, self._counters, draw)
        logits = restrict(logits, params)
        kept = torch.nonzero(logits > -math.inf).flatten()
        return int(kept[_gumbel_max(logits[kept], self._counters[kept], draw)])


def likeliest(logprobs: Tensor, count: int) -> tuple[tuple[int, float], ...]:
    """The `count` likeliest tokens of logprobs [vocab] as (id, logprob), likeliest first, equal ones by their id."""
    count = min(count, logprobs.shape[0])
    if count == 0:
        return ()
    lowest = torch.topk(logprobs, count).values[-1]
    ids = torch.nonzero(logprobs >= lowest).flatten()
    values, order = torch.sort(logprobs[ids], descending=True, stable=True)
    return tuple(zip(ids[order[:count]].tolist(), values[:count].tolist(), strict=True))


def _gumbel_max(logits: Tensor, counters: Tensor, draw: Draw) -> int:
    """The index of a draw from softmax(logits)."""
    noise = uniform_noise(draw.params.seed, draw.index, counters)
    return int(torch.argmax(logits.double() - noise.log_().neg_().log_()))
