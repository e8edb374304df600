"""The loop: gather the events of one turn, let the brain decide, commit, then carry the effects out in order.

Nothing of a turn leaves the process before its records are committed; an `early` Dispatch may be sent meanwhile, but
its answer waits at the gate. Outcomes come back as events.

When the disk refuses, new jobs are turned away and what was accepted goes on. The records that could not be written are
owed and written with the next turn that succeeds; the end of a job is told only then. What else was done meanwhile (a
worker is ready, a pool drains, a cancel is under way) holds as long as this process does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from llorch.base import errors, log
from llorch.base.errors import LlorchError, StorageUnavailable
from llorch.base.ids import JobId
from llorch.core.brain import Brain
from llorch.core.effects import (
    Accept,
    Announce,
    Ask,
    CancelAttempt,
    CountTokens,
    Dispatch,
    DrainWorker,
    Duplicate,
    Effect,
    Finish,
    Persist,
    ReadPool,
    Record,
    Refuse,
    RefuseSession,
    RefuseWorker,
    SpawnWorker,
    StopWorker,
    TellLoading,
    WakePool,
)
from llorch.core.events import AttemptFailed, Event, JobNotStored, JobSubmitted, TimePassed, WorkerAnnounced
from llorch.core.job import Failure, FailureKind, JobRecord, JobSpec
from llorch.core.tenant import UsageRecord
from llorch.core.worker import WorkerSpec
from llorch.orchestratord import views
from llorch.orchestratord.clock import BrainClock
from llorch.orchestratord.dispatch import Dispatcher
from llorch.orchestratord.metrics import Metrics
from llorch.orchestratord.owed import Owed
from llorch.orchestratord.streams import JobStream, Streams
from llorch.store.segments import Segments
from llorch.store.store import Store
from llorch.wire import events

logger = log.get(__name__)

OWED_RETRY_S = 1.0
WAKEUP_MIN_S = 0.001


@dataclass(slots=True)
class _Submission:
    """A job at the door. `answer` is its caller's, and cancelled with it; `decided` is for all others who wait."""

    spec: JobSpec
    answer: asyncio.Future[Accept | Duplicate]
    decided: asyncio.Event | None = None


@dataclass(slots=True)
class _Told:
    """Somebody waits for what becomes of an event. `refusal`: the brain does not do what it asks for."""

    done: asyncio.Future[None]
    refusal: LlorchError | None = None

    def settle(self) -> None:
        """Answer, unless whoever waited is gone."""
        if self.done.done():
            return
        if self.refusal is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(self.refusal)


@dataclass(slots=True)
class _Turn:
    """`failure` is why its commit failed; then the jobs `unstored`, which it should have let in, are turned away."""

    effects: list[Effect]
    told: list[_Told]
    gate: asyncio.Future[None]
    started: set[tuple[JobId, int]] = field(default_factory=set)
    failure: StorageUnavailable | None = None
    unstored: set[JobId] = field(default_factory=set)


class Driver:
    """Owns the brain; everything else speaks to it by `post`, `tell` and `submit`."""

    def __init__(
        self,
        brain: Brain,
        store: Store,
        segments: Segments,
        streams: Streams,
        dispatcher: Dispatcher,
        clock: BrainClock,
        metrics: Metrics,
        ask: Callable[[Ask], None],
        actuate: Callable[[Effect], None],
    ) -> None:
        self.brain = brain
        self.store = store
        self.segments = segments
        self.streams = streams
        self.clock = clock
        self.metrics = metrics
        self._dispatcher = dispatcher
        self._ask = ask
        self._actuate = actuate
        self._inbox: list[tuple[Event, _Told | None]] = []
        self._arrived = asyncio.Event()
        self._submissions: dict[JobId, _Submission] = {}
        self._owed = Owed()
        self._stopped = False

    def post(self, event: Event) -> None:
        """Hand an event to the next turn."""
        if not self._stopped:
            self._inbox.append((event, None))
            self._arrived.set()

    async def tell(self, event: Event) -> None:
        """Hand an event in and wait until its turn has been committed (or is owed) and carried out.

        Raises the LlorchError of a refusal.
        """
        told = _Told(asyncio.get_running_loop().create_future())
        self._inbox.append((event, told))
        self._arrived.set()
        await told.done

    async def submit(self, spec: JobSpec) -> Accept | Duplicate:
        """Put a job to the brain; returns when it is durable. Raises the LlorchError of a refusal."""
        answer: asyncio.Future[Accept | Duplicate] = asyncio.get_running_loop().create_future()
        self._submissions[spec.job_id] = _Submission(spec, answer)
        self.streams.add(JobStream(spec.job_id, self.segments.create(spec.job_id)))
        self.post(JobSubmitted(spec))
        # The submission outlives its caller: a client that hangs up is an event of its own.
        return await answer

    async def admitted(self, job_id: JobId) -> None:
        """Wait until a job that is at the door has been let in or turned away."""
        if (submission := self._submissions.get(job_id)) is not None:
            submission.decided = submission.decided or asyncio.Event()
            await submission.decided.wait()

    async def announce(self, spec: WorkerSpec) -> None:
        """Put a worker on the list. Raises WorkerAlreadyRegistered."""
        await self.tell(WorkerAnnounced(spec))

    def stop(self) -> None:
        """Take no further events: what happens from now on is the process going away, not the world's doing."""
        self._stopped = True

    async def run(self) -> None:
        """Take turns for ever."""
        while True:
            await self._wait()
            inbox, self._inbox = self._inbox, []
            await self._take_turn(inbox)

    async def _wait(self) -> None:
        wakeup = self.brain.next_wakeup()
        delays = [] if wakeup is None else [max(WAKEUP_MIN_S, wakeup - self.clock.now())]
        if self._owed:
            delays.append(OWED_RETRY_S)
        if not self._inbox:
            try:
                async with asyncio.timeout(min(delays, default=None)):
                    await self._arrived.wait()
            except TimeoutError:
                pass
        self._arrived.clear()

    async def _take_turn(self, inbox: list[tuple[Event, _Told | None]]) -> None:
        now = self.clock.now()
        effects: list[Effect] = []
        for event, told in inbox:
            decided = self.brain.decide(event, now)
            if told is not None:
                told.refusal = _refusal_in(decided)
            effects += decided
        wakeup = self.brain.next_wakeup()
        if wakeup is not None and wakeup <= now:
            effects += self.brain.decide(TimePassed(), now)
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        turn = _Turn(effects, [told for _, told in inbox if told is not None], gate)
        # No frame of an attempt that is given up may come between it and the next attempt of its job.
        for effect in effects:
            if isinstance(effect, CancelAttempt):
                self._dispatcher.hush(effect)
        for effect in effects:
            if isinstance(effect, Dispatch) and effect.early:
                self._dispatch(effect, turn)
        await self._commit(turn)
        gate.set_result(None)
        for effect in effects:
            self._carry_out(effect, turn)
        for told in turn.told:
            told.settle()

    # Storing

    async def _commit(self, turn: _Turn) -> None:
        records = self._owed.records(turn.effects)
        if not records:
            return
        try:
            await self.store.commit(records, self._last_ids(records))
        except StorageUnavailable as failure:
            self.metrics.commits_failed.add()
            turn.failure = failure
            turn.unstored = {effect.job_id for effect in turn.effects if isinstance(effect, Accept)}
            self._owed.refused(turn.effects, turn.unstored)
            return
        for ending in self._owed.settled():
            self._finish(ending)

    def _last_ids(self, records: list[Record]) -> dict[JobId, int]:
        """How far the segments go of the jobs that end with these records."""
        ended = (record.spec.job_id for record in records if isinstance(record, JobRecord) and record.state.terminal)
        streams = {job_id: stream for job_id in ended if (stream := self.streams.get(job_id)) is not None}
        return {job_id: stream.segment.last_id for job_id, stream in streams.items()}

    # Carrying out

    def _carry_out(self, effect: Effect, turn: _Turn) -> None:
        match effect:
            case Persist():
                if isinstance(effect.record, UsageRecord):
                    self.metrics.tenants.took(effect.record)
            case Accept():
                self._accept(effect, turn)
            case Duplicate():
                self.streams.drop(effect.job_id)
                failure = turn.failure if effect.of in turn.unstored else None
                self._answer(effect.job_id, failure or effect)
            case Refuse():
                self._refuse(effect)
            case RefuseWorker() | RefuseSession():
                pass  # whoever told us the event hears of it, see `_take_turn`
            case CountTokens():
                if (submission := self._submissions.get(effect.job_id)) is not None:
                    self._dispatcher.count_tokens(effect, submission.spec)
            case Dispatch():
                self._dispatch(effect, turn)
            case CancelAttempt():
                self._dispatcher.cancel(effect)
            case Finish():
                if turn.failure is None:
                    self._finish(effect)
                elif (stream := self.streams.get(effect.job_id)) is not None:
                    stream.hold()
            case Announce():
                if (stream := self.streams.get(effect.job_id)) is not None:
                    stream.place(effect.queue_position, effect.eta_s)
            case TellLoading():
                if (stream := self.streams.get(effect.job_id)) is not None:
                    stream.loading(effect.model, effect.progress, effect.eta_s)
            case DrainWorker():
                self._dispatcher.drain(effect)
            case SpawnWorker() | StopWorker() | WakePool() | ReadPool():
                self._actuate(effect)
            case Ask():
                self._ask(effect)

    def _answer(self, job_id: JobId, answer: Accept | Duplicate | LlorchError) -> None:
        submission = self._submissions.pop(job_id, None)
        if submission is None:
            return
        if submission.decided is not None:
            submission.decided.set()
        if submission.answer.done():  # the caller has hung up
            return
        if isinstance(answer, LlorchError):
            submission.answer.set_exception(answer)
        else:
            submission.answer.set_result(answer)

    def _accept(self, effect: Accept, turn: _Turn) -> None:
        if turn.failure is not None:
            self._turn_away(effect.job_id, turn.failure)
            return
        self.metrics.jobs.add(value="accepted")
        if (stream := self.streams.get(effect.job_id)) is not None:
            stream.place(effect.queue_position, effect.eta_s)
        self._answer(effect.job_id, effect)

    def _turn_away(self, job_id: JobId, failure: StorageUnavailable) -> None:
        """The job could not be stored: answer so, and let the brain forget it before it hears anything else."""
        self.metrics.jobs.add(value="refused")
        self._inbox.insert(0, (JobNotStored(job_id), None))
        self._arrived.set()
        if (stream := self.streams.get(job_id)) is not None:
            stream.finish(events.error(failure.code, failure.message, retriable=True))
        self.streams.drop(job_id)
        self.segments.remove([job_id])
        self._answer(job_id, failure)

    def _refuse(self, effect: Refuse) -> None:
        self.metrics.jobs.add(value="refused")
        self.streams.drop(effect.job_id)
        error = errors.by_code(effect.code, effect.message, retry_after_s=effect.retry_after_s)
        error.details = effect.details
        self._answer(effect.job_id, error)

    def _dispatch(self, effect: Dispatch, turn: _Turn) -> None:
        """Start an attempt once: an early one has been started before the commit."""
        if (effect.job_id, effect.attempt) in turn.started:
            return
        stream, record = self.streams.get(effect.job_id), self.brain.job(effect.job_id)
        if stream is None or record is None:
            # It was turned away, or has ended in this very turn: its slot is free.
            failure = Failure(FailureKind.REFUSED, message="the attempt was not begun")
            self.post(AttemptFailed(effect.job_id, effect.attempt, failure, 0, 0))
            return
        turn.started.add((effect.job_id, effect.attempt))
        self._dispatcher.start(effect, stream, record, turn.gate)

    def _finish(self, effect: Finish) -> None:
        stream = self.streams.get(effect.job_id)
        if stream is None:
            return
        self.metrics.jobs.add(value=effect.ending.state.value)
        log.event(
            logger,
            "job ended",
            job_id=effect.job_id,
            state=effect.ending.state.value,
            code=effect.ending.error_code,
            correlation_id=effect.correlation_id,
        )
        self.streams.drop(effect.job_id)
        stream.finish(views.terminal_event(effect.ending))


def _refusal_in(effects: list[Effect]) -> LlorchError | None:
    """Why the brain does not do what an event asks for; None when it does."""
    refusals = (effect for effect in effects if isinstance(effect, (RefuseWorker, RefuseSession)))
    return next((errors.by_code(effect.code, effect.message) for effect in refusals), None)
