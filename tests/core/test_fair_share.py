"""Tokens that tenants and sessions get from the whole brain while all have jobs waiting."""

from __future__ import annotations

import pytest
from fair_share import Contest, Contestant, unfairness
from hypothesis import example, given, settings
from hypothesis import strategies as st

JOBS = 1500


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(Contestant("a", 50), Contestant("b", 5), id="ten times the jobs"),
        pytest.param(Contestant("a", 50, weight=3.0), Contestant("b", 5), id="three times the weight"),
        pytest.param(Contestant("a", 50, mean=20), Contestant("b", 5, mean=300), id="long jobs"),
        pytest.param(Contestant("a", 50), Contestant("b", 5, max_tokens=150), id="shorter limit"),
    ],
)
def test_tenants_share_tokens_by_weight(one: Contestant, other: Contestant, seed: int) -> None:
    """However many jobs a tenant submits and however long they are, tokens are shared within a tenth."""
    got = Contest([one, other], seed).run(JOBS)
    assert unfairness(got, {one: one.weight, other: other.weight}) < 0.1


@settings(max_examples=10, deadline=None)
@example(seed=0, means=(5, 232), weights=(3.0, 0.5))
@given(
    seed=st.integers(0, 99),
    means=st.tuples(st.integers(5, 300), st.integers(5, 300)),
    weights=st.tuples(st.sampled_from([1.0, 3.0]), st.sampled_from([1.0, 0.5])),
)
def test_tokens_are_shared_whatever_the_lengths(
    seed: int, means: tuple[int, int], weights: tuple[float, float]
) -> None:
    """Random lengths, of which the estimate at dispatch is often far off, do not move the shares."""
    one = Contestant("a", 50, means[0], weight=weights[0])
    other = Contestant("b", 5, means[1], weight=weights[1])
    got = Contest([one, other], seed).run(4 * JOBS)
    parts = one.weight + other.weight
    # Who has few long jobs under way is a whole job ahead or behind.
    one_job = max(each.mean / (got.total() * each.weight / parts) for each in (one, other))
    assert unfairness(got, {one: one.weight, other: other.weight}) < 0.1 + one_job


def test_sessions_share_what_their_tenant_gets() -> None:
    """A session with ten times the jobs gets no more than another, nor than the jobs without a session; and its
    tenant gets no more than another tenant with one flow."""
    flows = [Contestant("a", 50, session="x"), Contestant("a", 5, session="y", mean=200), Contestant("a", 5)]
    rival = Contestant("b", 5)
    got = Contest([*flows, rival], seed=1).run(4 * JOBS)
    assert unfairness(got, {**dict.fromkeys(flows, 1.0), rival: 3.0}) < 0.1
