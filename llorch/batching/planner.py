"""What the next forward pass computes: every decoding sequence's tokens first, then prefill chunks under a budget.

A state machine on plain integers: no model, no clock, no I/O. The loop around it is

    plan = planner.plan()               # a frozen value
    drawn = runner.run(plan)            # one forward pass: row for row, as many as the row has draws
    outcomes = planner.commit(plan, drawn, seconds)

Sequences may be added, cancelled or finished at any moment outside `commit`: rows of a plan whose sequence is gone by
then are ignored. A plan that could not be run is simply not committed.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Items
from dataclasses import dataclass

from llorch.base import errors
from llorch.batching.blocks import blocks_for
from llorch.batching.cache import Cache
from llorch.batching.pacer import Pacer
from llorch.batching.plan import Drawn, Outcome, Row, StepPlan
from llorch.batching.rows import row_of, shares
from llorch.batching.sequence import Sequence, SequenceState, StopReason
from llorch.batching.speculation import DECODING_MAX, DRAFTS_MAX, Drafter, verify
from llorch.batching.waiting import WaitingList, arrival

STEP_TOKENS_MAX = 512


@dataclass(frozen=True, slots=True)
class Counts:
    """What the planner has done so far, and the blocks as they are now; `blocks_used` includes the idle ones."""

    prompt_tokens_looked_up: int = 0
    prompt_tokens_reused: int = 0
    drafted: int = 0
    accepted: int = 0
    preempted: int = 0
    evicted: int = 0
    blocks_used: int = 0
    blocks_idle: int = 0
    blocks_total: int = 0


class Planner:
    """Sequences are admitted first come, first served, when a slot and the blocks of their ids are free.

    Blocks are taken when positions need them; when there are none, the sequence that came last goes back to waiting, so
    the one that came first always gets on. A step holds at most `step_tokens_max` prompt tokens besides
    `1 + drafts_max` of each slot. `cheap_rows`: rows a pass may have before verifying drafts makes it longer (by
    default always). `long_from`: prompts that with max_tokens are longer than this have `Row.stretch`.
    `idle_max` bounds the blocks that are kept for later sequences only.
    """

    def __init__(
        self,
        *,
        slots: int,
        context: int,
        step_tokens_max: int = STEP_TOKENS_MAX,
        blocks: int | None = None,
        idle_max: int | None = None,
        drafts_max: int = DRAFTS_MAX,
        cheap_rows: int | None = None,
        long_from: int | None = None,
    ) -> None:
        assert slots > 0
        self.slots = slots
        self.context = context
        self.preempted = 0
        self.drafted = 0
        self.accepted = 0
        self.cache = Cache(slots * blocks_for(context) if blocks is None else blocks, idle_max)
        assert self.cache.pool.capacity >= blocks_for(context), "one sequence of full context must fit"
        self._drafts_max = drafts_max
        self._cheap_rows = slots * (1 + drafts_max) if cheap_rows is None else cheap_rows
        self._long_from = long_from
        self._pacer = Pacer(step_tokens_max)
        self._arrivals = 0
        self._live: dict[str, Sequence] = {}
        self._waiting = WaitingList()
        self._running: dict[str, Sequence] = {}
        self._drafters: dict[str, Drafter] = {}
        self._planned: StepPlan | None = None
        self._rows: dict[str, Row] = {}

    @property
    def live(self) -> int:
        """Sequences that are not finished."""
        return len(self._live)

    @property
    def slots_busy(self) -> int:
        """Slots taken by running sequences."""
        return len(self._running)

    @property
    def counts(self) -> Counts:
        """A snapshot for whoever watches."""
        cache, pool, tree = self.cache, self.cache.pool, self.cache.tree
        return Counts(
            cache.prompt_tokens_looked_up,
            cache.prompt_tokens_reused,
            self.drafted,
            self.accepted,
            self.preempted,
            tree.evicted,
            pool.capacity - pool.free,
            tree.idle,
            pool.capacity,
        )

    def labels(self, limit: int) -> tuple[str, ...]:
        """Labels of the beginnings that are in the cache, the latest first."""
        return self.cache.tree.labels(limit)

    def sequence(self, key: str) -> Sequence | None:
        """The live sequence of that key."""
        return self._live.get(key)

    def add(self, sequence: Sequence) -> Outcome | None:
        """Take a sequence in. An Outcome says that it is finished already: its resumed ids reach max_tokens.

        Raises InvalidRequest, ContextLengthExceeded or DuplicateJob; then nothing has changed.
        """
        assert sequence.state is SequenceState.WAITING
        if sequence.key in self._live:
            raise errors.DuplicateJob
        if not sequence.prompt_ids or sequence.max_tokens < 1:
            raise errors.InvalidRequest("the prompt needs at least one token and max_tokens at least 1")
        positions = sequence.prompt_length + sequence.max_tokens
        if positions > self.context:
            raise errors.ContextLengthExceeded(
                f"{sequence.prompt_length} prompt tokens and max_tokens {sequence.max_tokens} "
                f"exceed the context of {self.context}"
            )
        self._arrivals += 1
        sequence.arrival = self._arrivals
        sequence.stretch = self._long_from is not None and positions > self._long_from
        self._live[sequence.key] = sequence
        self._waiting.add(sequence)
        self._planned = None
        if sequence.tokens_out >= sequence.max_tokens:
            return self.finish(sequence.key, StopReason.MAX_TOKENS)
        return None

    def cancel(self, key: str) -> Outcome | None:
        """End a sequence as CANCELLED; its slot is free for the next plan. None when it is not live."""
        return self.finish(key, StopReason.CANCELLED)

    def finish(self, key: str, reason: StopReason) -> Outcome | None:
        """End a sequence for a reason the planner cannot see, such as a stop string. None when it is not live."""
        sequence = self._live.get(key)
        if sequence is None:
            return None
        if sequence.state is not SequenceState.WAITING:
            self.cache.keep(sequence)
        return self._end(sequence, reason)

    def abort(self, key: str) -> Outcome | None:
        """End a sequence whose step failed: what is in its private blocks is not to be trusted, nor kept.

        Its whole blocks are from steps that succeeded, and no row writes into them any more.
        """
        sequence = self._live.get(key)
        if sequence is None:
            return None
        if sequence.state is not SequenceState.WAITING:
            self.cache.drop(sequence)
        return self._end(sequence, StopReason.CANCELLED)

    def plan(self) -> StepPlan:
        """The next step. Until something changes, the same again."""
        while self._planned is None:
            plan = self._compose()
            if plan or not self._live:  # otherwise all went back to waiting, and the first of them has room now
                self._planned = plan
        return self._planned

    def commit(self, plan: StepPlan, drawn: Items[tuple[Drawn, ...]], seconds: float) -> list[Outcome]:
        """Enter what the model drew for the plan made last, row for row, and how long that took."""
        self._planned = None
        self.cache.copied(plan.copies)
        decode_tokens = sum(len(row.token_ids) for row in plan.rows if len(row.token_ids) == len(row.draws))
        self._pacer.learn(decode_tokens, plan.token_count - decode_tokens, seconds)
        outcomes = []
        for row, tokens in zip(plan.rows, drawn, strict=True):
            assert len(tokens) == len(row.draws)
            if self._rows.get(row.key) is row:
                del self._rows[row.key]
                outcomes += self._enter(self._running[row.key], row, tokens)
        return outcomes

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self.slots:
            sequence = self._next_to_admit()
            if sequence is None:
                return
            self._waiting.remove(sequence)
            sequence.state = SequenceState.PREFILL
            self._running[sequence.key] = sequence
            self.cache.admit(sequence)

    def _next_to_admit(self) -> Sequence | None:
        """With nothing running the first one: all blocks can be had."""
        if not self._running:
            return self._waiting.first()
        claimed = sum(map(self.cache.missing, self._running.values()))
        return self._waiting.first_fitting(lambda sequence: self.cache.has_room(sequence, claimed))

    def _compose(self) -> StepPlan:
        self._admit()
        running = sorted(self._running.values(), key=arrival)
        prefill = [s for s in running if s.state is SequenceState.PREFILL]
        for sequence in prefill:
            self.cache.follow(sequence)
        decode = [s for s in running if s.state is SequenceState.DECODE]
        drafts = self._drafts(decode)
        wanted = {s.key: 1 + len(drafts.get(s.key, ())) for s in decode}
        wanted |= shares(self._leading(prefill), self._pacer.budget(sum(wanted.values())))
        taken = {}
        for sequence in running:  # who came first takes its blocks first
            taken[sequence.key] = self._make_room(sequence, wanted.get(sequence.key, 0))
        rows = [
            row_of(s, taken[s.key], drafts.get(s.key, ()))
            for s in (*decode, *prefill)
            if s.key in self._running and taken[s.key]
        ]
        self._rows = {row.key: row for row in rows}
        return StepPlan(tuple(rows), self.cache.copies)

    def _drafts(self, decode: list[Sequence]) -> dict[str, tuple[int, ...]]:
        """Per sequence, tokens to be verified beside its next one: together no more than make the pass hardly longer,
        and none when the batch is large enough to be worth its pass.
        """
        left = self._cheap_rows - len(decode)
        if not self._drafts_max or len(decode) >= DECODING_MAX or left <= 0:
            return {}
        drafts = {}
        for number, sequence in enumerate(decode):
            drafter = self._drafters.get(sequence.key)
            if drafter is None:
                drafter = self._drafters[sequence.key] = Drafter(self._drafts_max, sequence.eos_ids)
            share = -(-left // (len(decode) - number))
            drafted = drafter.draft(sequence.token_ids, min(share, sequence.max_tokens - sequence.tokens_out - 1))
            drafts[sequence.key] = drafted
            left -= len(drafted)
        return drafts

    def _leading(self, prefill: Iterable[Sequence]) -> list[Sequence]:
        """Of those that are at the same whole block only the first: the others take it over once it is computed."""
        leading = []
        seen = set()
        for sequence in prefill:
            token_ids = self.cache.next_whole(sequence)
            block = (self.cache.branch(sequence), token_ids)
            if not token_ids or block not in seen:
                leading.append(sequence)
                seen.add(block)
        return leading

    def _make_room(self, sequence: Sequence, wanted: int) -> int:
        """Positions of the `wanted` next ones that have blocks: at least one, unless it is preempted itself."""
        while wanted and sequence.key in self._running:
            end = self.cache.grow(sequence, sequence.computed + wanted)
            if end > sequence.computed:
                return end - sequence.computed
            self._preempt(max(self._running.values(), key=arrival))
        return 0

    def _preempt(self, sequence: Sequence) -> None:
        """Back to waiting, before all that came later; what it computed stays as long as nobody needs the room."""
        self.cache.keep(sequence)
        del self._running[sequence.key]
        sequence.state = SequenceState.WAITING
        sequence.preemptions += 1
        self.preempted += 1
        self._waiting.add(sequence)

    def _enter(self, sequence: Sequence, row: Row, drawn: tuple[Drawn, ...]) -> list[Outcome]:
        if not drawn:
            sequence.computed = row.positions.stop
            self.cache.enter(sequence)
            return []
        drafts = row.token_ids[len(row.token_ids) - len(drawn) + 1 :]
        room = sequence.max_tokens - sequence.tokens_out
        verdict = verify(drafts, drawn, sequence.eos_ids, room)
        sequence.token_ids += (one.token_id for one in verdict.drawn)
        sequence.computed = row.positions.stop - len(drafts) + verdict.accepted
        self.cache.enter(sequence)
        self._note_drafts(sequence, len(drafts), verdict.accepted)
        if sequence.state is SequenceState.PREFILL:
            sequence.state = SequenceState.DECODE
            self.cache.label(sequence)
        if verdict.reason is not None:
            self.finish(sequence.key, verdict.reason)
        return [Outcome(sequence.key, verdict.drawn, sequence.tokens_out, verdict.reason)]

    def _note_drafts(self, sequence: Sequence, drafted: int, accepted: int) -> None:
        self.drafted += drafted
        self.accepted += accepted
        drafter = self._drafters.get(sequence.key)
        if drafter is not None:
            drafter.verified(drafted, accepted)

    def _end(self, sequence: Sequence, reason: StopReason) -> Outcome:
        del self._live[sequence.key]
        if sequence.state is SequenceState.WAITING:
            self._waiting.remove(sequence)
        else:
            del self._running[sequence.key]
        self._rows.pop(sequence.key, None)
        self._drafters.pop(sequence.key, None)
        self._planned = None
        sequence.state = SequenceState.FINISHED
        sequence.stop_reason = reason
        return Outcome(sequence.key, (), sequence.tokens_out, reason)
