"""Drafts: found like a search through the whole sequence would, bounded, and without any influence on the output."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_model import SimulatedModel, alone

from llorch.batching import speculation
from llorch.batching.plan import Drawn
from llorch.batching.planner import Planner
from llorch.batching.sequence import SamplingParams, Sequence, SequenceState, StopReason
from llorch.batching.speculation import DECODING_MAX, DRAFTS_MAX, NGRAMS, Drafter, verify

EOS = frozenset({0})
IDS = st.lists(st.integers(1, 3), min_size=1, max_size=40)


def dumb_draft(ids: list[int], count: int) -> tuple[int, ...]:
    """What followed the latest earlier occurrence of the last n-gram, the sequence going on with its drafts."""
    for size in NGRAMS:
        for at in range(len(ids) - 1, size - 1, -1):
            if len(ids) > size and ids[at - size : at] == ids[-size:]:
                longer = list(ids)
                for offset in range(count):
                    longer.append(longer[at + offset])
                return tuple(longer[len(ids) :])
    return ()


@given(IDS, IDS, st.integers(0, 9))
def test_drafts_are_what_a_search_finds(first: list[int], second: list[int], limit: int) -> None:
    """However the sequence has grown, and however often it is asked."""
    drafter = Drafter(DRAFTS_MAX, EOS)
    drafter.draft(first, limit)
    ids = first + second
    length = min(speculation.FIRST_LENGTH, limit)
    assert drafter.draft(ids, limit) == drafter.draft(ids, limit) == dumb_draft(ids, length)


def test_no_draft_is_an_end() -> None:
    """Drafts stop before an end-of-sequence id: what comes after it is never wanted."""
    assert Drafter(7, EOS).draft([1, 2, 3, 0, 1, 2], 7) == (3,)


def test_length_follows_the_verdicts() -> None:
    """Right drafts grow to the maximum, a partly right one shrinks, wrong ones rest for longer each time."""
    drafter, ids = Drafter(7, EOS), [1, 2] * 20
    lengths = []
    for accepted in (3, 6, 7, 2, 0, 0):
        lengths.append(len(drafter.draft(ids, 99)))
        drafter.verified(lengths[-1], accepted)
        while not drafter.draft(ids, 99):
            drafter.verified(0, 0)
            lengths.append(0)
    assert lengths == [3, 6, 7, 7, 3, 0, 1, 0, 0, 0]


def test_the_index_is_bounded() -> None:
    """A sequence of any length costs a bounded memory; what is far back is forgotten."""
    drafter = Drafter(7, EOS)
    ids = list(range(3, 3 * speculation.INDEXED_TOKENS_MAX))
    for _ in range(len(ids) // speculation.INDEXED_A_STEP_MAX + 1):
        assert drafter.draft([*ids, 3, 4, 5], 7) == ()
    assert drafter.draft([*ids, 3, 4, 5, *ids[-9:-6]], 7) == tuple(ids[-6:-3])
    assert len(drafter._after) <= len(NGRAMS) * speculation.INDEXED_TOKENS_MAX


def test_verdicts() -> None:
    """The first draw that differs is kept; the end and max_tokens are seen behind right drafts only."""

    def verdict(drafts: tuple[int, ...], ids: tuple[int, ...], room: int = 9) -> tuple[int, int, StopReason | None]:
        found = verify(drafts, tuple(map(Drawn, ids)), EOS, room)
        assert found.drawn == tuple(map(Drawn, ids))[: len(found.drawn)]
        return len(found.drawn), found.accepted, found.reason

    assert verdict((), (5,)) == (1, 0, None)
    assert verdict((5, 6), (5, 6, 7)) == (3, 2, None)
    assert verdict((5, 6), (5, 7, 0)) == (2, 1, None)
    assert verdict((5, 6), (4, 0, 0)) == (1, 0, None)
    assert verdict((5, 6), (5, 0, 3)) == (1, 1, StopReason.EOS)
    assert verdict((), (0,)) == (0, 0, StopReason.EOS)
    assert verdict((5, 6), (5, 6, 0), room=3) == (2, 2, StopReason.EOS)
    assert verdict((5, 6), (5, 6, 7), room=3) == (3, 2, StopReason.MAX_TOKENS)


@settings(max_examples=50)
@given(
    prompt=st.lists(st.integers(1, 4), min_size=1, max_size=40),
    max_tokens=st.integers(1, 60),
    seed=st.integers(0, 99),
    penalty=st.sampled_from([1.0, 1.1]),
    drafts_max=st.sampled_from([0, 1, 7]),
)
def test_drafts_change_no_output(
    prompt: list[int], max_tokens: int, seed: int, penalty: float, drafts_max: int
) -> None:
    """With and without drafts the same tokens, and with them in no more steps than tokens."""
    sampling = SamplingParams(repetition_penalty=penalty, seed=seed)
    job = Sequence("a", tuple(prompt), max_tokens, sampling, EOS)
    planner, model = Planner(slots=1, context=128, drafts_max=drafts_max), SimulatedModel()
    planner.add(job)
    tokens, steps, reason = [], 0, None
    while reason is None:
        plan = planner.plan()
        (outcome,) = planner.commit(plan, model.run(plan), 0.01)
        tokens += outcome.token_ids
        reason = outcome.stop_reason
        steps += 1
    assert (tuple(tokens), reason) == alone(job)
    assert planner.accepted <= planner.drafted <= drafts_max * steps
    assert steps + planner.accepted == len(tokens) + (reason is StopReason.EOS)


def test_a_full_batch_drafts_nothing() -> None:
    """With enough sequences decoding each pass is worth its while, and all decode by one token."""
    planner = Planner(slots=DECODING_MAX, context=128)
    for number in range(DECODING_MAX):
        planner.add(Sequence(str(number), (1, 2, 1, 2, number), 9))
    for expected in (DECODING_MAX, DECODING_MAX):
        plan = planner.plan()
        assert sum(len(row.draws) for row in plan.rows) == expected
        planner.commit(plan, [(Drawn(1),)] * len(plan.rows), 0.01)
    planner.cancel("0")
    assert any(len(row.draws) > 1 for row in planner.plan().rows)


def test_drafts_fit_into_what_a_pass_has_free() -> None:
    """With room for six rows, four decoding sequences share two drafts; with none left, nothing is drafted."""
    for cheap_rows, drafted in ((6, 2), (4, 0), (40, 4 * 3)):
        planner = Planner(slots=4, context=512, cheap_rows=cheap_rows)
        jobs = [Sequence(f"j{number}", (number, *(7, 8, 9, 5) * 4, 7, 8, 9), 50) for number in range(4)]
        for job in jobs:
            planner.add(job)
        while any(job.state is not SequenceState.DECODE for job in jobs):
            plan = planner.plan()
            planner.commit(plan, [tuple(Drawn(5) for _ in row.draws) for row in plan.rows], 0.01)
        assert sum(len(row.token_ids) - 1 for row in planner.plan().rows) == drafted
