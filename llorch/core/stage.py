"""The world of a rehearsal: an agenda of what will happen, and stand-ins that do what the brain's effects say.

Answers with events, at once or through the agenda. No event is lost and no job ends twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from heapq import heappop, heappush

from llorch.base import errors
from llorch.base.ids import JobId, SessionId, TenantId, WorkerId
from llorch.core import events as happened
from llorch.core.effects import CancelAttempt, CountTokens, Dispatch, Effect, Finish, Refuse
from llorch.core.events import Event
from llorch.core.figures import Fate, Outcome
from llorch.core.job import Failure, FailureKind, Result
from llorch.core.staging import Arrival, Seat, StagedWorker, StandIn


class Stage:
    """What there is besides the brain. `now` is set by who owns the clock; `moved_at` is when a job last got on."""

    def __init__(self, workers: Iterable[StagedWorker], arrivals: Iterable[Arrival]) -> None:
        self.now = 0.0
        self.moved_at = 0.0
        self.live: set[JobId] = set()
        self.ended = 0
        self._agenda: list[tuple[float, int, Callable[[], Iterable[Event]]]] = []
        self._entries = 0
        self._arrivals = {arrival.spec.job_id: arrival for arrival in arrivals}
        self.fates = {job_id: Fate(arrival.spec, arrival.at) for job_id, arrival in self._arrivals.items()}
        self._present: dict[WorkerId, StandIn] = {}
        self._sessions: dict[tuple[TenantId, SessionId], WorkerId] = {}
        self._relayed: Counter[JobId] = Counter()
        self._fill_agenda(tuple(workers))

    def _fill_agenda(self, workers: tuple[StagedWorker, ...]) -> None:
        speeds = {worker.spec.worker_id: worker.speed for worker in workers}
        for worker in workers:
            stand_in = StandIn(worker, speeds)
            self._later(worker.up_at, partial(self._come, stand_in))
            if worker.down_at is not None:
                self._later(max(worker.up_at, worker.down_at), partial(self._go, stand_in))
        for arrival in self._arrivals.values():
            self._later(arrival.at, partial(self._arrive, arrival))
            if arrival.cancel_after_s is not None:
                self._later(arrival.at + arrival.cancel_after_s, partial(_give_up, arrival))

    def _later(self, at: float, act: Callable[[], Iterable[Event]]) -> None:
        self._entries += 1
        heappush(self._agenda, (at, self._entries, act))

    def next_at(self) -> float | None:
        """When the next entry of the agenda is due; None: it is empty."""
        return self._agenda[0][0] if self._agenda else None

    def due(self) -> Iterable[Event]:
        """What the next entry of the agenda comes to, now that it is due."""
        return heappop(self._agenda)[2]()

    def beats(self) -> list[Event]:
        """A heartbeat of everyone present."""
        return [_beat(stand_in) for stand_in in self._present.values()]

    def carry_out(self, effect: Effect) -> Iterable[Event]:
        """What follows from an effect at once."""
        match effect:
            case Refuse():
                self._end(effect.job_id, Outcome.REFUSED, effect.code, 0)
            case CountTokens():
                return (happened.TokensCounted(effect.job_id, self._arrivals[effect.job_id].prompt_tokens),)
            case Dispatch():
                return self._dispatch(effect)
            case CancelAttempt():
                return self._stop(effect)
            case Finish():
                ending = effect.ending
                tokens = self._relayed[effect.job_id] if ending.result is None else ending.result.tokens_out
                self._end(effect.job_id, Outcome(ending.state.value), ending.error_code, tokens)
        return ()

    def _end(self, job_id: JobId, outcome: Outcome, code: str | None, tokens_out: int) -> None:
        fate = self.fates[job_id]
        assert fate.outcome is Outcome.UNFINISHED, "a job ends once"
        fate.ended_at, fate.outcome, fate.code, fate.tokens_out = self.now, outcome, code, tokens_out
        self.live.discard(job_id)
        self.ended += 1
        self.moved_at = self.now

    # Jobs

    def _arrive(self, arrival: Arrival) -> Iterable[Event]:
        """Nobody listens in a rehearsal, so no job is attached; a repeated key would only hide a job."""
        self.live.add(arrival.spec.job_id)
        self.moved_at = self.now
        return (happened.JobSubmitted(replace(arrival.spec, attached=False, idempotency_key=None)),)

    def _dispatch(self, effect: Dispatch) -> Iterable[Event]:
        seat = (effect.job_id, effect.attempt)
        arrival, stand_in = self._arrivals[effect.job_id], self._present[effect.worker_id]
        self._note_dispatch(self.fates[effect.job_id], effect.worker_id)
        needs = (arrival.prompt_tokens or 0) + (arrival.spec.max_tokens or 1)
        if needs > stand_in.spec.context_length:
            code = errors.ContextLengthExceeded.code
            return self._failed(seat, Failure(FailureKind.REJECTED, code, "the job does not fit this worker"))
        ttft_s = stand_in.take(seat, arrival)
        if ttft_s > effect.first_token_timeout_s:
            failure = Failure(FailureKind.STALLED)
            self._later(self.now + effect.first_token_timeout_s, partial(self._break_off, stand_in, seat, failure))
        elif arrival.failure is not None:
            self._later(self.now + ttft_s, partial(self._break_off, stand_in, seat, arrival.failure))
        else:
            self._later(self.now + ttft_s, partial(self._first_token, stand_in, seat))
        return (happened.AttemptStarted(*seat),)

    def _note_dispatch(self, fate: Fate, worker_id: WorkerId) -> None:
        fate.attempts += 1
        fate.worker_id = worker_id
        self.moved_at = self.now
        session = None if fate.spec.session_id is None else (fate.spec.tenant, fate.spec.session_id)
        if fate.dispatched_at is None:
            fate.dispatched_at = self.now
            if session in self._sessions:
                fate.session_kept = self._sessions[session] == worker_id
        if session is not None:
            self._sessions[session] = worker_id

    def _failed(self, seat: Seat, failure: Failure) -> Iterable[Event]:
        relayed = self._relayed[seat[0]]
        return (happened.AttemptFailed(*seat, failure, relayed, relayed),)

    def _break_off(self, stand_in: StandIn, seat: Seat, failure: Failure) -> Iterable[Event]:
        if seat not in stand_in:
            return ()
        stand_in.leave(seat, self.now)
        self._forecast(stand_in)
        return (*self._failed(seat, failure), *self._gone(stand_in))

    def _first_token(self, stand_in: StandIn, seat: Seat) -> Iterable[Event]:
        if seat not in stand_in:
            return ()
        stand_in.first_token(seat, self.now)
        self._forecast(stand_in)
        if self._arrivals[seat[0]].tokens_out == 0:
            return ()
        fate = self.fates[seat[0]]
        fate.first_token_at = self.now if fate.first_token_at is None else fate.first_token_at
        return (happened.FirstTokenSeen(*seat),)

    def _forecast(self, stand_in: StandIn) -> None:
        """Put the next end on this worker on the agenda; an earlier forecast is void by its version."""
        if (end := stand_in.next_end()) is not None:
            self._later(max(end[0], self.now), partial(self._over, stand_in, end[1], stand_in.version))

    def _over(self, stand_in: StandIn, seat: Seat, version: int) -> Iterable[Event]:
        if version != stand_in.version:
            return ()
        tokens = stand_in.end(seat, self.now)
        self._forecast(stand_in)
        return (happened.AttemptEnded(*seat, self._result(seat[0], "EOS", tokens)), *self._gone(stand_in))

    def _result(self, job_id: JobId, stop_reason: str, tokens_out: int) -> Result:
        """As a worker reports it: the brain learns speeds from it and charges sessions with it."""
        first_at = self.fates[job_id].first_token_at
        decode_s = 0.0 if first_at is None else self.now - first_at
        return Result(stop_reason, tokens_out, self._arrivals[job_id].prompt_tokens, round(decode_s * 1000))

    def _stop(self, effect: CancelAttempt) -> Iterable[Event]:
        seat = (effect.job_id, effect.attempt)
        stand_in = self._present.get(effect.worker_id)
        if stand_in is None or seat not in stand_in:
            return ()
        tokens = stand_in.leave(seat, self.now)
        self._relayed[effect.job_id] += tokens
        self._forecast(stand_in)
        stopped = happened.AttemptStopped(*seat, self._relayed[effect.job_id])
        ended = happened.AttemptEnded(*seat, self._result(effect.job_id, "CANCELLED", self._relayed[effect.job_id]))
        return (stopped, ended, *self._gone(stand_in))

    # Workers

    def _come(self, stand_in: StandIn) -> Iterable[Event]:
        self._present[stand_in.spec.worker_id] = stand_in
        return (happened.WorkerAnnounced(stand_in.spec), _beat(stand_in))

    def _go(self, stand_in: StandIn) -> Iterable[Event]:
        stand_in.leaving = True
        return (_beat(stand_in), *self._gone(stand_in))

    def _gone(self, stand_in: StandIn) -> Iterable[Event]:
        """A worker that drains leaves with its last attempt."""
        if not stand_in.leaving or len(stand_in) > 0:
            return ()
        self._present.pop(stand_in.spec.worker_id, None)
        return (happened.WorkerForgetRequested(stand_in.spec.worker_id),)


def _beat(stand_in: StandIn) -> Event:
    return happened.HeartbeatReceived(stand_in.spec.worker_id, stand_in.load())


def _give_up(arrival: Arrival) -> Iterable[Event]:
    return (happened.CancelRequested(arrival.spec.job_id),)
