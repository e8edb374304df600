"""The loop: gather the events of one turn, let the brain decide, commit, then carry the effects out in order.

Nothing of a turn leaves the process before its records are committed; an `early` Dispatch may be sent meanwhile, but
its answer waits at the gate. Outcomes come back as events. When the disk refuses, new jobs are turned away and what
was accepted goes on; the records that could not be written are owed and written with the next turn that succeeds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from llorch.base import errors, log
from llorch.base.errors import LlorchError, StorageUnavailable
from llorch.base.ids import JobId, WorkerId
from llorch.core.brain import Brain
from llorch.core.effects import (
    Accept,
    Announce,
    Ask,
    CancelAttempt,
    CountTokens,
    Decision,
    Dispatch,
    DrainWorker,
    Duplicate,
    Effect,
    Finish,
    Persist,
    PoolDropped,
    PoolRecord,
    Record,
    Refuse,
    RefuseWorker,
    WorkerForgotten,
)
from llorch.core.events import CancelRequested, Event, JobSubmitted, TimePassed, WorkerAnnounced
from llorch.core.job import Ending, JobRecord, JobSpec, JobState, Result
from llorch.core.worker import WorkerRecord, WorkerSpec
from llorch.orchestratord.clock import BrainClock
from llorch.orchestratord.dispatch import Dispatcher
from llorch.orchestratord.metrics import Metrics
from llorch.orchestratord.streams import JobStream, Streams
from llorch.store.segments import Segments
from llorch.store.store import Store
from llorch.wire import execute

logger = log.get(__name__)

OWED_RETRY_S = 1.0
WAKEUP_MIN_S = 0.001


@dataclass(slots=True)
class _Submission:
    spec: JobSpec
    answer: asyncio.Future[Accept | Duplicate]


@dataclass(slots=True)
class _Turn:
    effects: list[Effect]
    told: list[asyncio.Future[None]]
    gate: asyncio.Future[None]
    started: set[tuple[JobId, int]] = field(default_factory=set)


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
    ) -> None:
        self.brain = brain
        self.store = store
        self.segments = segments
        self.streams = streams
        self.clock = clock
        self.metrics = metrics
        self._dispatcher = dispatcher
        self._inbox: list[tuple[Event, asyncio.Future[None] | None]] = []
        self._arrived = asyncio.Event()
        self._submissions: dict[JobId, _Submission] = {}
        self._owed: dict[object, Record] = {}
        self._turned_away: set[JobId] = set()
        self._refused_workers: dict[tuple[WorkerId, str], LlorchError] = {}
        self._stopped = False

    def post(self, event: Event) -> None:
        """Hand an event to the next turn."""
        if not self._stopped:
            self._inbox.append((event, None))
            self._arrived.set()

    async def tell(self, event: Event) -> None:
        """Hand an event in and wait until its turn has been committed and carried out."""
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._inbox.append((event, told))
        self._arrived.set()
        await told

    async def submit(self, spec: JobSpec) -> Accept | Duplicate:
        """Put a job to the brain; returns when it is durable. Raises the LlorchError of a refusal."""
        answer: asyncio.Future[Accept | Duplicate] = asyncio.get_running_loop().create_future()
        self._submissions[spec.job_id] = _Submission(spec, answer)
        self.streams.add(JobStream(spec.job_id, self.segments.create(spec.job_id)))
        self.post(JobSubmitted(spec))
        # The submission outlives its caller: a client that hangs up is an event of its own.
        return await asyncio.shield(answer)

    async def admitted(self, job_id: JobId) -> None:
        """Wait until a job that is at the door has been let in or turned away."""
        if (submission := self._submissions.get(job_id)) is not None:
            await asyncio.wait([submission.answer])

    def owed_job(self, job_id: JobId) -> JobRecord | None:
        """What the store should say of a job and could not be told yet."""
        record = self._owed.get(("job", job_id))
        return record if isinstance(record, JobRecord) else None

    async def announce(self, spec: WorkerSpec) -> None:
        """Put a worker on the list. Raises WorkerAlreadyRegistered."""
        await self.tell(WorkerAnnounced(spec))
        if (refusal := self._refused_workers.pop((spec.worker_id, spec.url), None)) is not None:
            raise refusal

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

    async def _take_turn(self, inbox: list[tuple[Event, asyncio.Future[None] | None]]) -> None:
        now = self.clock.now()
        effects: list[Effect] = []
        for event, _ in inbox:
            effects += self.brain.decide(event, now)
        wakeup = self.brain.next_wakeup()
        if wakeup is not None and wakeup <= now:
            effects += self.brain.decide(TimePassed(), now)
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        turn = _Turn(effects, [told for _, told in inbox if told is not None], gate)
        for effect in effects:
            if isinstance(effect, Dispatch) and effect.early:
                self._dispatch(effect, turn)
        failure = await self._commit(turn)
        gate.set_result(None)
        for effect in effects:
            self._carry_out(effect, turn, failure)
        for told in turn.told:
            if not told.done():
                told.set_result(None)

    # Storing

    async def _commit(self, turn: _Turn) -> StorageUnavailable | None:
        records = self._records(turn.effects)
        if not records:
            return None
        try:
            await self.store.commit(records)
        except StorageUnavailable as failure:
            self.metrics.commits_failed.add()
            accepted = {effect.job_id for effect in turn.effects if isinstance(effect, Accept)}
            self._turned_away |= accepted
            self._owed = {_key(record): record for record in records if _job_of(record) not in accepted}
            return failure
        self._owed.clear()
        return None

    def _records(self, effects: Iterable[Effect]) -> list[Record]:
        """What to write: the newest record of each thing, every decision, and what is owed from before."""
        newest: dict[object, Record] = dict(self._owed)
        for effect in effects:
            if isinstance(effect, Persist) and _job_of(effect.record) not in self._turned_away:
                newest.pop(_key(effect.record), None)
                newest[_key(effect.record)] = effect.record
        return list(newest.values())

    # Carrying out

    def _carry_out(self, effect: Effect, turn: _Turn, failure: StorageUnavailable | None) -> None:
        match effect:
            case Persist():
                pass
            case Accept():
                self._accept(effect, failure)
            case Duplicate():
                self.streams.drop(effect.job_id)
                self._answer(effect.job_id, effect)
            case Refuse():
                self._refuse(effect)
            case RefuseWorker():
                refusal = errors.by_code(effect.code, effect.message)
                self._refused_workers[effect.worker_id, effect.url] = refusal
            case CountTokens():
                if (submission := self._submissions.get(effect.job_id)) is not None:
                    self._dispatcher.count_tokens(effect, submission.spec)
            case Dispatch():
                self._dispatch(effect, turn)
            case CancelAttempt():
                self._dispatcher.cancel(effect)
            case Finish():
                self._finish(effect)
            case Announce():
                if (stream := self.streams.get(effect.job_id)) is not None:
                    stream.place(effect.queue_position, effect.eta_s)
            case DrainWorker():
                self._dispatcher.drain(effect)
            case Ask():
                log.event(logger, "no policy script is loaded", level=30, hook=effect.hook)

    def _answer(self, job_id: JobId, answer: Accept | Duplicate | LlorchError) -> None:
        submission = self._submissions.pop(job_id, None)
        if submission is None or submission.answer.done():
            return
        if isinstance(answer, LlorchError):
            submission.answer.set_exception(answer)
            submission.answer.exception()  # the caller may have hung up: then nobody else looks at it
        else:
            submission.answer.set_result(answer)

    def _accept(self, effect: Accept, failure: StorageUnavailable | None) -> None:
        if failure is not None:
            self._answer(effect.job_id, failure)
            self.streams.drop(effect.job_id)
            self.post(CancelRequested(effect.job_id))
            return
        self.metrics.jobs.add(value="accepted")
        if (stream := self.streams.get(effect.job_id)) is not None:
            stream.place(effect.queue_position, effect.eta_s)
        self._answer(effect.job_id, effect)

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
            return
        turn.started.add((effect.job_id, effect.attempt))
        self._dispatcher.start(effect, stream, record, turn.gate)

    def _finish(self, effect: Finish) -> None:
        if effect.job_id in self._turned_away:
            self._turned_away.discard(effect.job_id)
            self.segments.remove([effect.job_id])
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
        stream.finish(terminal_event(effect.ending))


def terminal_event(ending: Ending) -> dict[str, object]:
    """The one `end` or `error` event of a job."""
    if ending.state is JobState.FAILED:
        wait_s = ending.retry_after_s
        return execute.error(
            ending.error_code or "INFERENCE_FAILED",
            ending.error_message or "the job failed",
            retriable=ending.retriable,
            retry_after_ms=None if wait_s is None else round(wait_s * 1000),
        )
    result = ending.result or Result(stop_reason=execute.StopReason.CANCELLED.value)
    return {
        "type": "end",
        "tokens_out": result.tokens_out,
        "decode_time_ms": result.decode_time_ms,
        "stop_reason": result.stop_reason,
        "prompt_tokens": result.prompt_tokens,
        "ttft_ms": result.ttft_ms,
        "seed": result.seed,
    }


def _key(record: Record) -> object:
    """Records of one key replace each other; decisions never do."""
    match record:
        case JobRecord():
            return "job", record.spec.job_id
        case WorkerRecord():
            return "worker", record.spec.worker_id
        case WorkerForgotten():
            return "worker", record.worker_id
        case PoolRecord() | PoolDropped():
            return "pool", record.pool_id
        case Decision():
            return id(record)


def _job_of(record: Record) -> JobId | None:
    match record:
        case JobRecord():
            return record.spec.job_id
        case Decision():
            return record.job_id
        case _:
            return None
