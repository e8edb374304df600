"""The step thread: plan -> run -> commit -> publish, over the pure planner and the model's runner.

The event loop hands in sequences and cancels through a queue and never waits for a step; the thread hands back one
list of updates per step through one `publish` call. A step that fails ends its sequences with INFERENCE_FAILED; a
thread that dies reports it, for a worker without a step thread must not look alive. A long prefill nobody waits for
any more is interrupted, so that the next sequence need not wait for it either.
"""

from __future__ import annotations

import collections
import itertools
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from llorch.base import log
from llorch.base.clock import SystemClock
from llorch.base.errors import InferenceFailed, LlorchError
from llorch.batching.detokenize import Piece, TextStream
from llorch.batching.plan import Drawn, Interrupted, Outcome, StepPlan
from llorch.batching.planner import Counts, Planner
from llorch.batching.sequence import SamplingParams, StopReason
from llorch.batching.sequence import Sequence as TokenSequence
from llorch.workerd.outlet import Ending, Outlet, Update

FAILURES_MAX = 3
SPEED_SMOOTHING = 0.1
INTERRUPTIBLE_TOKENS_MIN = 64
LABELS_MAX = 64
_log = log.get(__name__)


class StepRunner(Protocol):
    """The model's side: computes a plan and draws, row for row, as many tokens as the row has draws."""

    def run(self, plan: StepPlan) -> Sequence[tuple[Drawn, ...]]:
        """One forward pass. May raise Interrupted after `interrupt`."""
        ...

    def interrupt(self) -> None:
        """Called from another thread: end the run of this moment early, if that is possible.

        It may come too late, when another run has begun; interrupting that one costs its time and nothing else.
        """
        ...


@dataclass(frozen=True, slots=True)
class Submission:
    """Everything the thread needs of a sequence; prepared and checked by the loop's side."""

    outlet: Outlet
    prompt_ids: tuple[int, ...]
    resumed_ids: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams
    eos_ids: frozenset[int]
    text: TextStream
    labels: tuple[str, ...] = ()
    unsent: collections.deque[Drawn] = field(default_factory=collections.deque, compare=False)

    def feed(self, drawn: Sequence[Drawn]) -> tuple[Piece | None, int]:
        """The piece that may be sent after these draws, and how many of them belong to the text."""
        piece = None
        for count, one in enumerate(drawn):
            if self.text.stopped:
                return piece, count
            if self.sampling.logprobs is not None:
                self.unsent.append(one)
            piece = _join(piece, self.text.feed((one.token_id,)))
        return piece, len(drawn)

    def drawn_of(self, piece: Piece | None) -> tuple[Drawn, ...]:
        """The draws behind a piece, when logprobs were asked for: the text may lag behind what was drawn."""
        if self.sampling.logprobs is None or piece is None:
            return ()
        return tuple(self.unsent.popleft() for _ in piece.token_ids)


@dataclass(frozen=True, slots=True)
class Cancel:
    """The loop has ended this sequence: free its slot."""

    outlet: Outlet


@dataclass(frozen=True, slots=True)
class Stop:
    """Leave the thread."""


@dataclass(slots=True)
class Progress:
    """What the step thread did so far; written by it, read by anyone. Times are monotonic seconds."""

    steps: int = 0
    failures: int = 0
    positions: int = 0
    tokens: int = 0
    step_seconds: float = 0.0
    tokens_per_s: float = 0.0
    beat_at: float = 0.0
    working: bool = False
    counts: Counts = field(default_factory=Counts)
    labels: tuple[str, ...] = ()

    def silent_s(self, now: float) -> float:
        """Seconds since the last finished step while there is work; 0 when idle."""
        return max(0.0, now - self.beat_at) if self.working else 0.0


class Engine:
    """Owns planner and runner. `publish` and `died` are called in the step thread; they must not block."""

    def __init__(
        self,
        planner: Planner,
        runner: StepRunner,
        clock: SystemClock,
        *,
        publish: Callable[[list[Update]], None],
        died: Callable[[], None],
    ) -> None:
        self.progress = Progress(counts=planner.counts)
        self._planner = planner
        self._runner = runner
        self._clock = clock
        self._publish = publish
        self._died = died
        self._inbox: queue.SimpleQueue[Submission | Cancel | Stop] = queue.SimpleQueue()
        self._live: dict[str, Submission] = {}
        self._keys: dict[Outlet, str] = {}
        self._numbers = itertools.count(1)
        self._updates: list[Update] = []
        self._prefilling: frozenset[Outlet] = frozenset()
        self._thread = threading.Thread(target=self._guarded, name="step", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, submission: Submission) -> None:
        """Take a sequence in at the next step."""
        self._inbox.put(submission)

    def cancel(self, outlet: Outlet) -> None:
        """Free the slot of a sequence at the next step; unknown ones are ignored.

        The next step comes early when this one computes a long part of its prompt.
        """
        self._inbox.put(Cancel(outlet))
        if outlet in self._prefilling:
            self._runner.interrupt()

    def stop(self, timeout_s: float) -> None:
        """Leave the thread after the step that runs now; blocks up to `timeout_s`."""
        self._inbox.put(Stop())
        self._thread.join(timeout_s)

    def _guarded(self) -> None:
        clean = False
        try:
            self._loop()
            clean = True
        finally:
            if not clean:
                self._died()

    def _loop(self) -> None:
        while self._take_commands():
            plan = self._planner.plan()
            if plan:
                self._step(plan)
            self._report()
            if self._updates:
                updates, self._updates = self._updates, []
                self._publish(updates)

    def _take_commands(self) -> bool:
        """Apply what the loop asked for; waits when there is nothing else to do. False: leave."""
        while not self._live or not self._inbox.empty():
            self.progress.working = bool(self._live)
            command = self._inbox.get()
            if isinstance(command, Stop):
                return False
            if isinstance(command, Cancel):
                self._forget(command.outlet)
            else:
                self._admit(command)
            if self._updates and not self._live:
                return True
        return True

    def _admit(self, submission: Submission) -> None:
        """Give the sequence to the planner under a key of its own: a job id may come again while the old one leaves."""
        if submission.outlet.ending is not None:
            return
        key = str(next(self._numbers))
        sequence = TokenSequence(
            key,
            submission.prompt_ids,
            submission.max_tokens,
            submission.sampling,
            submission.eos_ids,
            submission.resumed_ids,
            submission.labels,
        )
        if not self._live:
            self.progress.beat_at = self._clock.now()
            self.progress.working = True
        self._live[key] = submission
        self._keys[submission.outlet] = key
        try:
            outcome = self._planner.add(sequence)
        except LlorchError as error:
            self._end(key, Ending(None, error), sequence.tokens_out)
            return
        if submission.text.stopped:
            outcome = self._planner.finish(key, StopReason.STOP_SEQUENCE) or outcome
        if outcome is not None:
            self._settle(outcome, self._clock.now())

    def _forget(self, outlet: Outlet) -> None:
        key = self._keys.pop(outlet, None)
        if key is not None:
            del self._live[key]
            self._planner.cancel(key)
            self._report()

    def _step(self, plan: StepPlan) -> None:
        began = self._clock.now()
        # Only a step that is nobody else's: what others have computed in it would be thrown away, too.
        long = [row for row in plan.rows if len(row.token_ids) >= INTERRUPTIBLE_TOKENS_MIN]
        self._prefilling = frozenset(self._live[row.key].outlet for row in long if len(plan.rows) == 1)
        try:
            drawn = self._runner.run(plan)
        except Interrupted:
            self.progress.beat_at = self._clock.now()
            return
        except (RuntimeError, MemoryError) as error:  # what torch raises when a step cannot be computed
            self._fail(plan, error)
            return
        finally:
            self._prefilling = frozenset()
        now = self._clock.now()
        outcomes = self._planner.commit(plan, drawn, now - began)
        self._count(plan, sum(len(outcome.drawn) for outcome in outcomes), now - began)
        self.progress.beat_at = now
        for outcome in outcomes:
            self._settle(outcome, now)

    def _report(self) -> None:
        self.progress.counts = self._planner.counts
        self.progress.labels = self._planner.labels(LABELS_MAX)

    def _count(self, plan: StepPlan, drawn: int, seconds: float) -> None:
        progress = self.progress
        progress.failures = 0
        progress.steps += 1
        progress.positions += plan.token_count
        progress.tokens += drawn
        progress.step_seconds += seconds
        if drawn and seconds > 0:
            rate = drawn / seconds
            old = progress.tokens_per_s or rate
            progress.tokens_per_s = old + SPEED_SMOOTHING * (rate - old)

    def _settle(self, outcome: Outcome, now: float) -> None:
        """Turn what happened to a sequence into the text that may be sent; what was drawn past a stop string is not."""
        submission = self._live[outcome.key]
        piece, drawn = submission.feed(outcome.drawn)
        reason = outcome.stop_reason
        if reason is not None and not submission.text.stopped:
            piece = _join(piece, submission.text.flush())
        if submission.text.stopped:
            reason = StopReason.STOP_SEQUENCE
            self._planner.finish(outcome.key, reason)
        tokens_out = outcome.tokens_out - len(outcome.drawn) + drawn
        if reason is not None:
            self._end(outcome.key, Ending(reason), tokens_out, piece, drawn, now)
        elif drawn:
            tokens = submission.drawn_of(piece)
            self._updates.append(Update(submission.outlet, piece, drawn, tokens_out, now, logprobs=tokens))

    def _end(
        self, key: str, ending: Ending, tokens_out: int, piece: Piece | None = None, drawn: int = 0, at: float = 0.0
    ) -> None:
        submission = self._live.pop(key)
        self._keys.pop(submission.outlet, None)
        tokens = submission.drawn_of(piece)
        self._updates.append(Update(submission.outlet, piece, drawn, tokens_out, at, ending, tokens))

    def _fail(self, plan: StepPlan, error: RuntimeError | MemoryError) -> None:
        """End every sequence of a step that failed; what its rows left in the cache is not to be trusted."""
        self.progress.failures += 1
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        log.event(_log, "step failed", logging.ERROR, error=reason, rows=len(plan.rows))
        for key in {row.key for row in plan.rows}:
            outcome = self._planner.abort(key)
            if outcome is not None:
                self._end(key, Ending(None, InferenceFailed()), outcome.tokens_out)
        if self.progress.failures >= FAILURES_MAX:
            raise error


def _join(first: Piece | None, second: Piece | None) -> Piece | None:
    if first is None or second is None:
        return first or second
    return Piece(first.text + second.text, first.token_ids + second.token_ids)
