"""A model whose cache can be read: each position of each block says which token ids it was computed from.

A draw is a function of all ids so far, the index and the seed, so each job's tokens are known without any cache.
"""

from __future__ import annotations

import zlib

from llorch.batching.blocks import BLOCK_POSITIONS
from llorch.batching.plan import Drawn, Row, StepPlan
from llorch.batching.sequence import Sequence, StopReason

EOS = 0
VOCABULARY = 5
NOTHING = -1
GARBAGE = -2


def draw(ids: tuple[int, ...], index: int, seed: int, penalised: bool, prompt_length: int) -> int:
    """The next token: mostly a repetition with a short period, sometimes a surprise, seldom the end."""
    chance = zlib.crc32(repr((ids, index, seed)).encode())
    if chance % 301 == 0:
        return EOS
    if chance % 7 == 0:
        return 1 + chance // 101 % (VOCABULARY - 1)
    shift = (len(set(ids)) + prompt_length) % 2 if penalised else 0
    return 1 + (index + shift) % 3


def alone(sequence: Sequence) -> tuple[tuple[int, ...], StopReason]:
    """Generated tokens and reason of a job that runs alone, without cache, batch or drafts."""
    ids = [*sequence.prompt_ids, *sequence.resumed_ids]
    while (index := len(ids) - sequence.prompt_length) < sequence.max_tokens:
        token = draw_for(sequence, tuple(ids), index)
        if token in sequence.eos_ids:
            return tuple(ids[sequence.prompt_length :]), StopReason.EOS
        ids.append(token)
    return tuple(ids[sequence.prompt_length :]), StopReason.MAX_TOKENS


def draw_for(sequence: Sequence, ids: tuple[int, ...], index: int) -> int:
    """A job's draw after `ids`."""
    penalised = sequence.sampling.penalised
    return draw(ids, index, sequence.sampling.seed, penalised, sequence.prompt_length if penalised else 0)


class SimulatedModel:
    """Blocks of positions, each holding the number of a prefix: (the prefix before it, token), exactly."""

    def __init__(self) -> None:
        self._prefixes: dict[tuple[int, int, bool], int] = {}
        self._ids: list[tuple[int, ...]] = []
        self._blocks: dict[int, list[int]] = {}

    def run(self, plan: StepPlan) -> list[tuple[Drawn, ...]]:
        """Copy, compute, draw; asserts that every position read was computed from the ids that belong there."""
        assert len({row.key for row in plan.rows}) == len(plan.rows)
        self._assert_private(plan)
        for copy in plan.copies:
            assert 0 < copy.positions <= BLOCK_POSITIONS and copy.source != copy.target
            self.block(copy.target)[: copy.positions] = self.block(copy.source)[: copy.positions]
        for row in plan.rows:
            self._compute(row)
        return [self._draws(row) for row in plan.rows]

    def ruin(self, plan: StepPlan) -> None:
        """A step that fails: nothing in the blocks it writes to can be trusted."""
        self.spoil(plan)
        for row in plan.rows:
            for number in row.blocks[row.start // BLOCK_POSITIONS :]:
                self.block(number)[:] = [GARBAGE] * BLOCK_POSITIONS

    def spoil(self, plan: StepPlan) -> None:
        """A step that is interrupted half-way: whatever it was to write is garbage now."""
        for copy in plan.copies:
            self.block(copy.target)[: copy.positions] = [GARBAGE] * copy.positions
        for row in plan.rows:
            for position in row.positions:
                self._write(row, position, GARBAGE)

    def block(self, number: int) -> list[int]:
        """The positions of a block."""
        return self._blocks.setdefault(number, [NOTHING] * BLOCK_POSITIONS)

    def prefixes(self, ids: tuple[int, ...], stretch: bool) -> list[int]:
        """What the cache holds after these ids."""
        found = []
        last = NOTHING
        for token in ids:
            last = self._prefix(last, token, stretch)
            found.append(last)
        return found

    def _prefix(self, before: int, token: int, stretch: bool) -> int:
        key = (before, token, stretch)
        if key not in self._prefixes:
            self._prefixes[key] = len(self._ids)
            self._ids.append((*(self._ids[before] if before >= 0 else ()), token))
        return self._prefixes[key]

    def _read(self, row: Row, position: int) -> int:
        return self.block(row.blocks[position // BLOCK_POSITIONS])[position % BLOCK_POSITIONS]

    def _write(self, row: Row, position: int, prefix: int) -> None:
        self.block(row.blocks[position // BLOCK_POSITIONS])[position % BLOCK_POSITIONS] = prefix

    def _compute(self, row: Row) -> None:
        assert len(set(row.blocks)) == len(row.blocks) == -(-row.positions.stop // BLOCK_POSITIONS)
        last = self._read(row, row.start - 1) if row.start else NOTHING
        if row.start:
            assert last >= 0, f"{row.key} reads a position that nobody computed"
            seen = [self._read(row, position) for position in range(row.start)]
            assert seen == self.prefixes(self._ids[last], row.stretch), f"{row.key} reads another's positions"
        for position, token in zip(row.positions, row.token_ids, strict=True):
            last = self._prefix(last, token, row.stretch)
            self._write(row, position, last)

    def _draws(self, row: Row) -> tuple[Drawn, ...]:
        drawn = []
        for back, wish in enumerate(reversed(row.draws)):
            ids = self._ids[self._read(row, row.positions.stop - 1 - back)]
            penalised = wish.params.penalised
            assert wish.history == (ids if penalised else ())
            drawn.append(Drawn(draw(ids, wish.index, wish.params.seed, penalised, wish.prompt_length)))
        return tuple(reversed(drawn))

    @staticmethod
    def _assert_private(plan: StepPlan) -> None:
        """No row writes into a block that another row or a copy uses."""
        for row in plan.rows:
            written = {row.blocks[position // BLOCK_POSITIONS] for position in row.positions}
            others = {block for other in plan.rows if other is not row for block in other.blocks}
            assert not written & others
            assert not written & {copy.source for copy in plan.copies}
