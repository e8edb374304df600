"""How the positions of a step are shared out, and the rows that come of it."""

from __future__ import annotations

from llorch.batching.blocks import blocks_for
from llorch.batching.plan import Draw, Row
from llorch.batching.sequence import Sequence


def shares(prefill: list[Sequence], budget: int) -> dict[str, int]:
    """Max-min fair chunks: a short prompt is not held up by a long one, which gets what the short one leaves."""
    taken = {}
    waiting = sorted(prefill, key=lambda s: s.remaining)
    for index, sequence in enumerate(waiting):
        share = min(sequence.remaining, -(-budget // (len(waiting) - index)))
        taken[sequence.key] = share
        budget -= share
    return taken


def row_of(sequence: Sequence, count: int, drafts: tuple[int, ...]) -> Row:
    """The next `count` tokens: known ones, then drafts. Each one from the last known on is followed by a draw."""
    start, known = sequence.computed, len(sequence.token_ids)
    drafted = drafts[: max(0, start + count - known)]
    token_ids = (*sequence.token_ids[start : start + count], *drafted)
    draws: tuple[Draw, ...] = ()
    if start + count >= known:
        draws = tuple(_draw(sequence, drafted[:ahead]) for ahead in range(len(drafted) + 1))
    blocks = tuple(sequence.blocks[: blocks_for(start + len(token_ids))])
    return Row(sequence.key, start, token_ids, draws, blocks, sequence.stretch)


def _draw(sequence: Sequence, drafts: tuple[int, ...]) -> Draw:
    """The draw after the drafts, as if they had been drawn."""
    index = sequence.tokens_out + len(drafts)
    if not sequence.sampling.penalised:
        return Draw(sequence.sampling, index)
    return Draw(sequence.sampling, index, (*sequence.token_ids, *drafts), sequence.prompt_length)
