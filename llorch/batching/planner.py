"""What the next forward pass computes: every decoding sequence's token first, then prefill chunks under a budget.

A state machine on plain integers: no model, no clock, no I/O. The loop around it is

    plan = planner.plan()               # a frozen value
    tokens = runner.run(plan)           # one forward pass
    outcomes = planner.commit(plan, tokens)

Sequences may be added, cancelled or finished at any moment outside `commit`: rows of a plan whose sequence is gone by
then are ignored.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence as Items
from dataclasses import dataclass

from llorch.base import errors
from llorch.batching.blocks import BlockPool, blocks_for
from llorch.batching.sequence import SamplingParams, Sequence, SequenceState, StopReason


@dataclass(frozen=True, slots=True)
class Draw:
    """A token to be drawn after a row's last position. `index` counts generated tokens from 0, resumed ones included.

    `history` is every token id so far, and empty unless a penalty needs it.
    """

    params: SamplingParams
    index: int
    history: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """Consecutive tokens of one sequence, at positions `start`, `start` + 1, ... of `slot`; `draw` asks for logits."""

    job_id: str
    slot: int
    start: int
    token_ids: tuple[int, ...]
    draw: Draw | None

    @property
    def positions(self) -> range:
        """The positions this row computes."""
        return range(self.start, self.start + len(self.token_ids))


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One forward pass: decode rows, then prefill chunks. False when there is nothing to do."""

    rows: tuple[Row, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.rows)

    @property
    def token_count(self) -> int:
        """Positions computed by this step."""
        return sum(len(row.token_ids) for row in self.rows)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step, a cancel or a finish did to one sequence: ids appended, and the reason when it ended."""

    job_id: str
    token_ids: tuple[int, ...]
    tokens_out: int
    stop_reason: StopReason | None = None


class Planner:
    """`step_tokens` bounds the positions of one step, so that no prompt delays the others' next token for long.

    Sequences are admitted first come, first served, when a slot and all blocks they can ever need are free.
    """

    def __init__(self, *, slots: int, context: int, step_tokens: int = 256, blocks: BlockPool | None = None) -> None:
        assert step_tokens > slots > 0, "a step must hold a token of every slot and room for prefill"
        self.slots = slots
        self.context = context
        self.step_tokens = step_tokens
        self.blocks = blocks or BlockPool(slots * blocks_for(context))
        assert self.blocks.capacity >= blocks_for(context), "one sequence of full context must fit"
        self._waiting: collections.deque[Sequence] = collections.deque()
        self._running: dict[int, Sequence] = {}
        self._live: dict[str, Sequence] = {}

    @property
    def live(self) -> int:
        """Sequences that are not finished."""
        return len(self._live)

    @property
    def slots_busy(self) -> int:
        """Slots taken by running sequences."""
        return len(self._running)

    def sequence(self, job_id: str) -> Sequence | None:
        """The live sequence of a job."""
        return self._live.get(job_id)

    def add(self, sequence: Sequence) -> Outcome | None:
        """Take a sequence in. An Outcome says that it is finished already: its resumed ids reach max_tokens.

        Raises InvalidRequest, ContextLengthExceeded or DuplicateJob; then nothing has changed.
        """
        assert sequence.state is SequenceState.WAITING
        if sequence.job_id in self._live:
            raise errors.DuplicateJob
        if not sequence.prompt_ids or sequence.max_tokens < 1:
            raise errors.InvalidRequest("the prompt needs at least one token and max_tokens at least 1")
        if sequence.prompt_length + sequence.max_tokens > self.context:
            raise errors.ContextLengthExceeded(
                f"{sequence.prompt_length} prompt tokens and max_tokens {sequence.max_tokens} "
                f"exceed the context of {self.context}"
            )
        self._live[sequence.job_id] = sequence
        self._waiting.append(sequence)
        if sequence.tokens_out >= sequence.max_tokens:
            return self.finish(sequence.job_id, StopReason.MAX_TOKENS)
        return None

    def cancel(self, job_id: str) -> Outcome | None:
        """End a sequence as CANCELLED; its slot is free for the next plan. None when it is not live."""
        return self.finish(job_id, StopReason.CANCELLED)

    def finish(self, job_id: str, reason: StopReason) -> Outcome | None:
        """End a sequence for a reason the planner cannot see, such as a stop string. None when it is not live."""
        sequence = self._live.pop(job_id, None)
        if sequence is None:
            return None
        if sequence.slot is None:
            self._waiting.remove(sequence)
        else:
            del self._running[sequence.slot]
            self.blocks.release(job_id)
        sequence.slot = None
        sequence.state = SequenceState.FINISHED
        sequence.stop_reason = reason
        return Outcome(job_id, (), sequence.tokens_out, reason)

    def plan(self) -> StepPlan:
        """The next step. Without a commit in between, the same again."""
        self._admit()
        running = [self._running[slot] for slot in sorted(self._running)]
        decode = [_row(s, 1) for s in running if s.state is SequenceState.DECODE]
        prefill = [s for s in running if s.state is SequenceState.PREFILL]
        return StepPlan((*decode, *_share(prefill, self.step_tokens - len(decode))))

    def commit(self, plan: StepPlan, tokens: Items[int | None]) -> list[Outcome]:
        """Enter what the model drew: one token per row that asked for one, None for the others."""
        outcomes = []
        for row, token in zip(plan.rows, tokens, strict=True):
            sequence = self._running.get(row.slot)
            if sequence is None or sequence.job_id != row.job_id or sequence.computed != row.start:
                continue
            sequence.computed += len(row.token_ids)
            if row.draw is not None:
                assert token is not None
                outcomes.append(self._extend(sequence, token))
        return outcomes

    def _admit(self) -> None:
        free = [slot for slot in range(self.slots) if slot not in self._running]
        for slot in free:
            if not self._waiting:
                return
            sequence = self._waiting[0]
            if not self.blocks.reserve(sequence.job_id, sequence.positions_max):
                return
            self._waiting.popleft()
            sequence.slot = slot
            sequence.state = SequenceState.PREFILL
            self._running[slot] = sequence

    def _extend(self, sequence: Sequence, token: int) -> Outcome:
        sequence.state = SequenceState.DECODE
        if token in sequence.eos_ids:
            reason: StopReason | None = StopReason.EOS
            appended: tuple[int, ...] = ()
        else:
            sequence.token_ids.append(token)
            appended = (token,)
            reason = StopReason.MAX_TOKENS if sequence.tokens_out >= sequence.max_tokens else None
        if reason is not None:
            self.finish(sequence.job_id, reason)
        return Outcome(sequence.job_id, appended, sequence.tokens_out, reason)


def _share(prefill: list[Sequence], budget: int) -> list[Row]:
    """Max-min fair chunks: a short prompt is not held up by a long one, and what it leaves goes to the long one."""
    rows = []
    waiting = sorted(prefill, key=lambda s: s.remaining)
    for index, sequence in enumerate(waiting):
        share = -(-budget // (len(waiting) - index))
        take = min(sequence.remaining, share)
        if take:
            rows.append(_row(sequence, take))
            budget -= take
    return rows


def _row(sequence: Sequence, take: int) -> Row:
    assert sequence.slot is not None
    end = sequence.computed + take
    draw = None
    if end == len(sequence.token_ids):
        penalised = sequence.sampling.repetition_penalty != 1.0
        history = tuple(sequence.token_ids) if penalised else ()
        draw = Draw(sequence.sampling, sequence.tokens_out, history)
    token_ids = tuple(sequence.token_ids[sequence.computed : end])
    return Row(sequence.job_id, sequence.slot, sequence.computed, token_ids, draw)
