"""The pacer against machines of different speed: it finds the chunk that takes what it may, and keeps its bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llorch.batching.pacer import STEP_S_MAX, STRETCH_MAX, TOKENS_FIRST, TOKENS_MIN, Pacer

TOKENS_MAX = 512


def seconds(token_s: float, decode: int, prefill: int) -> float:
    """A machine whose steps cost a fixed part, a little for a decoded token and more for a prompt's."""
    return 20 * token_s + 2 * token_s * decode + token_s * prefill


@pytest.mark.parametrize("token_s", [1e-5, 1e-3, 3e-3])
@pytest.mark.parametrize("decode", [0, 1, 6])
def test_it_settles_at_what_a_step_may_take(token_s: float, decode: int) -> None:
    """Three times a step without prefill while somebody decodes, a quarter of a second when nobody does."""
    pacer = Pacer(TOKENS_MAX)
    assert pacer.budget(decode) == TOKENS_FIRST
    for _ in range(30):
        if decode:
            pacer.learn(decode, 0, seconds(token_s, decode, 0))
        budget = pacer.budget(decode)
        pacer.learn(decode, budget, seconds(token_s, decode, budget))
    allowed = STRETCH_MAX * seconds(token_s, decode, 0) if decode else STEP_S_MAX
    best = next(n for n in range(TOKENS_MAX, 0, -1) if n <= TOKENS_MIN or seconds(token_s, decode, n) <= allowed)
    assert 0.8 * best <= pacer.budget(decode) <= 1.2 * best


def test_one_odd_step_changes_little() -> None:
    """A step that took a thousand times as long, once, leaves half the budget or more."""
    pacer = Pacer(TOKENS_MAX)
    for _ in range(10):
        pacer.learn(2, 0, 0.02)
        pacer.learn(2, 64, 0.05)
    before = pacer.budget(2)
    pacer.learn(2, 64, 50.0)
    assert pacer.budget(2) >= before / 2


@given(
    st.lists(st.tuples(st.integers(0, 64), st.integers(0, 512), st.floats(0, 1e6)), max_size=20),
    st.integers(0, 99),
    st.integers(1, 1000),
)
def test_the_budget_is_bounded(steps: list[tuple[int, int, float]], decode: int, tokens_max: int) -> None:
    """Whatever was measured: never nothing, never more than a step holds."""
    pacer = Pacer(tokens_max)
    for decoded, prefilled, took in steps:
        pacer.learn(decoded, prefilled, took)
    assert min(TOKENS_MIN, tokens_max) <= pacer.budget(decode) <= tokens_max
