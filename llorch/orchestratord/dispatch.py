"""Attempts: hand a job to a worker, pass its frames to the relay, and tell the brain how it went.

One task per attempt, none per token. Every attempt ends in exactly one AttemptEnded or AttemptFailed, unless the brain
gave it up (CancelAttempt for a lost worker) or the process stops; one that is stopped says first what was relayed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import aiohttp

from llorch.base import clock, log
from llorch.base.errors import InvalidRequest, LlorchError, StorageUnavailable, WorkerLost
from llorch.base.ids import JobId, WorkerId
from llorch.core.effects import CancelAttempt, CancelCause, CountTokens, Dispatch, DrainWorker
from llorch.core.events import (
    AttemptEnded,
    AttemptFailed,
    AttemptStarted,
    AttemptStopped,
    Event,
    FirstTokenSeen,
    TokensCounted,
)
from llorch.core.job import Failure, FailureKind, JobRecord, JobSpec
from llorch.orchestratord import upstream
from llorch.orchestratord.clock import BrainClock
from llorch.orchestratord.metrics import Metrics
from llorch.orchestratord.relay import Ended, Failed, FirstToken, Relay, Signal, Started
from llorch.orchestratord.streams import JobStream
from llorch.wire import events, strict_json

logger = log.get(__name__)

_LOST = WorkerLost.code
STALL_SLACK = 0.05


class Attempt:
    """One dispatch of a job to a worker."""

    def __init__(self, effect: Dispatch, stream: JobStream, record: JobRecord, dispatched_at: float) -> None:
        self.effect = effect
        self.stream = stream
        self.record = record
        self.dispatched_at = dispatched_at
        self.relay = Relay(stream, self._describe_start)
        self.task: asyncio.Task[None] | None = None
        self.limit: asyncio.Timeout | None = None
        self.answered = False

    @property
    def key(self) -> tuple[JobId, int]:
        """What the brain calls this attempt."""
        return self.effect.job_id, self.effect.attempt

    def _describe_start(self, event: dict[str, Any]) -> dict[str, Any]:
        model = self.record.model or event.get("model") or ""
        started_at = event.get("started_at") or clock.iso(self.dispatched_at)
        wait_s = max(0.0, self.dispatched_at - self.record.accepted_at)
        own = {"worker_id": self.effect.worker_id, "queue_wait_ms": round(wait_s * 1000)}
        return {**events.started(self.effect.job_id, str(model)[:64], str(started_at)[:40]), **own}


class Dispatcher:
    """Owns the attempts under way and every other call to a worker."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        group: asyncio.TaskGroup,
        brain_clock: BrainClock,
        metrics: Metrics,
        token_for: Callable[[WorkerId, str], str | None],
        post: Callable[[Event], None],
    ) -> None:
        """`token_for` gives the worker token for workers (id, URL) that may see it; `post` hands over events."""
        self._session = session
        self._group = group
        self._clock = brain_clock
        self._metrics = metrics
        self._token_for = token_for
        self._post = post
        self._attempts: dict[tuple[JobId, int], Attempt] = {}

    def __len__(self) -> int:
        return len(self._attempts)

    def start(self, effect: Dispatch, stream: JobStream, record: JobRecord, gate: asyncio.Future[None]) -> None:
        """Send the job to the worker; nothing of the answer is relayed before `gate` is done."""
        attempt = Attempt(effect, stream, record, self._clock.now())
        if effect.attempt == 1:
            self._metrics.queue_wait.observe(max(0.0, attempt.dispatched_at - record.accepted_at))
        self._attempts[attempt.key] = attempt
        attempt.task = self._group.create_task(self._run(attempt, gate), name=f"attempt {effect.job_id}")

    def hush(self, effect: CancelAttempt) -> None:
        """Relay nothing more of an attempt; to be followed by `cancel`."""
        if (attempt := self._attempts.get((effect.job_id, effect.attempt))) is not None:
            attempt.relay.mute()

    def cancel(self, effect: CancelAttempt) -> None:
        """Relay nothing more; ask the worker to stop, and give its `end` the time that the effect grants."""
        attempt = self._attempts.get((effect.job_id, effect.attempt))
        if attempt is None:
            return  # it is over, and what became of it is on its way to the brain
        attempt.relay.mute()
        self._post(AttemptStopped(effect.job_id, effect.attempt, _tokens_in(attempt.stream)))
        body = strict_json.dump({"job_id": upstream.attempt_name(effect.job_id, effect.attempt)})
        self._call_later("/cancel", effect.url, effect.worker_id, body, attempt.record.spec.correlation_id)
        if effect.cause is CancelCause.LOST:
            self._abandon(attempt)
        elif not attempt.answered:
            self._abandon(attempt)
            self._fail(attempt, Failure(FailureKind.BROKEN, "CANCELLED", "cancelled before the worker answered"))
        elif attempt.limit is not None and not attempt.limit.expired():
            attempt.limit.reschedule(asyncio.get_running_loop().time() + effect.limit_s)

    def _abandon(self, attempt: Attempt) -> None:
        del self._attempts[attempt.key]
        if attempt.task is not None:
            attempt.task.cancel()

    # One attempt

    async def _run(self, attempt: Attempt, gate: asyncio.Future[None]) -> None:
        log.correlation.set(attempt.record.spec.correlation_id)
        try:
            failure = await self._attempt(attempt, gate)
        except aiohttp.ServerTimeoutError:
            failure = Failure(FailureKind.REFUSED, _LOST, "the worker did not take the connection in time")
        except TimeoutError:
            failure = Failure(FailureKind.STALLED, _LOST, "the worker sent nothing for too long")
        except aiohttp.ClientConnectorError:
            failure = Failure(FailureKind.REFUSED, _LOST, "the worker took no connection")
        except (aiohttp.ClientError, OSError, ValueError):
            failure = Failure(FailureKind.BROKEN, _LOST, "the worker broke off")
        except LlorchError as error:
            failure = Failure(FailureKind.FAILED, error.code, error.message)
        if failure is not None and self._attempts.pop(attempt.key, None) is not None:
            self._fail(attempt, failure)

    async def _attempt(self, attempt: Attempt, gate: asyncio.Future[None]) -> Failure | None:
        """Run to the end; None when the worker sent `end`. Raises what `_run` maps to failures."""
        effect = attempt.effect
        segment = attempt.stream.segment
        token_ids = segment.token_ids() if segment.frames else []
        if token_ids is None:
            return Failure(FailureKind.REJECTED, _LOST, "the worker sent no token ids, so nobody else can continue")
        spec = attempt.record.spec
        body = upstream.execute_body(
            spec.payload, upstream.attempt_name(effect.job_id, effect.attempt), token_ids, segment.frames
        )
        deadline = None if effect.deadline_at is None else self._clock.unix(effect.deadline_at)
        headers = upstream.headers(self._token_for(effect.worker_id, effect.url), spec.correlation_id, deadline)
        async with asyncio.timeout(effect.first_token_timeout_s) as attempt.limit:
            async with self._session.post(
                effect.url + "/execute", data=body, headers=headers, allow_redirects=False
            ) as response:
                attempt.answered = True
                if response.status != 200:
                    return await upstream.refusal(response)
                await _pass(gate, attempt, attempt.limit)
                return await self._relay(attempt, response)

    async def _relay(self, attempt: Attempt, response: aiohttp.ClientResponse) -> Failure | None:
        loop = asyncio.get_running_loop()
        stall_s = attempt.effect.stall_timeout_s
        next_look = 0.0
        while data := await response.content.readany():
            frames_before = attempt.relay.frames
            for signal in attempt.relay.feed(data):
                if isinstance(signal, Failed):
                    return signal.failure
                self._tell(attempt, signal)
                if isinstance(signal, Ended):
                    return None
            if (relayed := attempt.relay.frames - frames_before) and attempt.limit is not None:
                self._metrics.frames.add(relayed)
                now = loop.time()
                if now >= next_look:  # moving a timer for every token costs too much
                    slack_s = stall_s * STALL_SLACK
                    next_look = now + slack_s
                    attempt.limit.reschedule(now + stall_s + slack_s)
        return Failure(FailureKind.BROKEN, _LOST, "the worker closed the stream without an end")

    def _tell(self, attempt: Attempt, signal: Signal) -> None:
        job_id, number = attempt.key
        match signal:
            case Started():
                self._post(AttemptStarted(job_id, number))
            case FirstToken():
                if attempt.stream.segment.frames <= attempt.relay.frames:
                    self._metrics.ttft.observe(max(0.0, self._clock.now() - attempt.record.accepted_at))
                self._post(FirstTokenSeen(job_id, number))
            case Ended():
                if self._attempts.pop(attempt.key, None) is not None:
                    self._post(AttemptEnded(job_id, number, signal.result))

    def _fail(self, attempt: Attempt, failure: Failure) -> None:
        job_id, number = attempt.key
        self._metrics.attempts_failed.add(value=failure.kind.value)
        log.event(
            logger,
            "attempt failed",
            job_id=job_id,
            attempt=number,
            worker_id=attempt.effect.worker_id,
            kind=failure.kind.value,
            code=failure.code,
            correlation_id=attempt.record.spec.correlation_id,
        )
        stream = attempt.stream
        self._post(AttemptFailed(job_id, number, failure, stream.segment.frames, _tokens_in(stream)))

    # Other calls

    def count_tokens(self, effect: CountTokens, spec: JobSpec) -> None:
        """Ask a worker how long the prompt is; the answer comes back as TokensCounted."""
        self._group.create_task(self._count(effect, spec), name=f"count {effect.job_id}")

    async def _count(self, effect: CountTokens, spec: JobSpec) -> None:
        payload = strict_json.parse_object(spec.payload)
        content = {name: payload[name] for name in ("prompt", "messages") if name in payload}
        answer = await self._call(
            "/tokenize", effect.url, effect.worker_id, strict_json.dump(content), spec.correlation_id, effect.limit_s
        )
        count = None if answer is None else answer.get("count")
        counted = count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None
        self._post(TokensCounted(effect.job_id, counted))

    def drain(self, effect: DrainWorker) -> None:
        """Ask a worker to finish and exit."""
        self._call_later("/drain", effect.url, effect.worker_id, b"{}", effect.correlation_id)

    def _call_later(self, path: str, url: str, worker_id: WorkerId, body: bytes, correlation_id: str) -> None:
        self._group.create_task(self._call(path, url, worker_id, body, correlation_id), name=f"call {path}")

    async def _call(
        self,
        path: str,
        url: str,
        worker_id: WorkerId,
        body: bytes,
        correlation_id: str,
        limit_s: float = upstream.CALL_TIMEOUT_S,
    ) -> dict[str, Any] | None:
        """A short call; None when the worker did not answer it with a JSON object."""
        headers = upstream.headers(self._token_for(worker_id, url), correlation_id)
        try:
            async with asyncio.timeout(limit_s):
                async with self._session.post(
                    url + path, data=body, headers=headers, allow_redirects=False
                ) as response:
                    data = await upstream.read_limited(response, upstream.ANSWER_SIZE_MAX)
                    return strict_json.parse_object(data) if response.status < 300 and data else None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, InvalidRequest) as error:
            log.event(
                logger,
                f"a worker did not answer {path}",
                level=logging.INFO,
                worker_id=worker_id,
                error=type(error).__name__,
                correlation_id=correlation_id,
            )
            return None


async def _pass(gate: asyncio.Future[None], attempt: Attempt, limit: asyncio.Timeout) -> None:
    """Wait for the commit of the turn that began the attempt, however long it takes: it is not the worker's time."""
    limit.reschedule(None)
    await asyncio.wait([gate])  # awaiting the gate itself would cancel it for all, if this attempt is cancelled
    if not attempt.relay.muted:
        limit.reschedule(asyncio.get_running_loop().time() + attempt.effect.first_token_timeout_s)


def _tokens_in(stream: JobStream) -> int:
    """Tokens that the job's client has got, or pieces where they cannot be counted."""
    try:
        return stream.segment.token_count()
    except StorageUnavailable:
        return stream.segment.frames
