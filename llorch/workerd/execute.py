"""`POST /execute`: one sequence as one event stream, from `started` to exactly one terminal event."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterator

from aiohttp import web

from llorch.base import log
from llorch.base.clock import iso
from llorch.base.errors import InvalidRequest, LlorchError, TimedOut
from llorch.batching.plan import Drawn
from llorch.web.bodies import read_object
from llorch.wire import events, sse
from llorch.wire import execute as wire
from llorch.wire.logprobs import Likely, TokenLogprob
from llorch.workerd.outlet import Ending, Outlet, Portion, Taken
from llorch.workerd.service import Service

PING_S = 15.0
METRICS_S = 1.0
WRITE_DEADLINE_S = 10.0
DEADLINE_DIGITS_MAX = 15
_log = log.get(__name__)


class ReaderGone(ConnectionError):
    """The client does not read, or is not there any more."""


async def execute(service: Service, request: web.Request) -> web.StreamResponse:
    """The handler. A client that goes away cancels this coroutine, and `close` frees the slot."""
    deadline = read_deadline(request.headers.get(wire.DEADLINE_HEADER), service)
    body = wire.parse_execute(await read_object(request))
    outlet = await service.open(body)
    stream = _Stream(service, request, outlet, body.resume.next_i, deadline)
    try:
        await stream.run()
    except (ReaderGone, ConnectionResetError):
        log.event(_log, "reader gone", job_id=outlet.job_id)
    finally:
        service.close(outlet)
    return stream.response


def read_deadline(header: str | None, service: Service) -> float | None:
    """X-Deadline (Unix milliseconds) as monotonic seconds. Raises InvalidRequest, and TimedOut when it is past."""
    if header is None:
        return None
    if not header.isascii() or not header.isdigit() or len(header) > DEADLINE_DIGITS_MAX:
        raise InvalidRequest(f"{wire.DEADLINE_HEADER} must be Unix time in milliseconds")
    left_s = int(header) / 1000 - service.clock.wall()
    if left_s <= 0:
        raise TimedOut("the deadline is past")
    return service.clock.now() + left_s


class _Stream:
    """Writes the frames of one outlet; every write has a deadline of its own."""

    def __init__(
        self, service: Service, request: web.Request, outlet: Outlet, next_i: int, deadline: float | None
    ) -> None:
        self.response = web.StreamResponse(headers=sse.HEADERS)
        self._service = service
        self._request = request
        self._outlet = outlet
        self._next_i = next_i
        self._deadline = deadline
        self._metrics_at = service.clock.now() + METRICS_S

    async def run(self) -> None:
        """The whole stream."""
        clock = self._service.clock
        await self.response.prepare(self._request)
        started = events.started(self._outlet.job_id, self._service.facts.model, iso(clock.wall()))
        await self._within_deadline(self.response.write(sse.encode(started)))
        while True:
            taken = await self._outlet.wait(self._patience_s())
            if self._deadline is not None and clock.now() >= self._deadline:
                self._service.finish(self._outlet, Ending(None, TimedOut()))
            frames = list(self._frames(self._outlet.take()))
            ending = self._outlet.ending
            if ending is not None:
                frames.append(sse.encode(self._terminal(ending)))
            elif taken is Taken.NOTHING:
                frames.append(sse.PING)
            if frames:
                await self._within_deadline(self.response.write(b"".join(frames)))
            if ending is not None:
                await self._within_deadline(self.response.write_eof())
                self._log_end(ending)
                return

    def _patience_s(self) -> float:
        left = PING_S if self._deadline is None else self._deadline - self._service.clock.now()
        return max(0.0, min(PING_S, left))

    def _frames(self, portions: list[Portion]) -> Iterator[bytes]:
        for portion in portions:
            token_ids, logprobs = list(portion.token_ids), _logprobs(portion.logprobs)
            yield sse.encode(events.token(portion.text, self._next_i, token_ids, logprobs))
            self._next_i += 1
        now = self._service.clock.now()
        if portions and now >= self._metrics_at:
            self._metrics_at = now + METRICS_S
            outlet = self._outlet
            decode_ms = round(outlet.decode_s * 1000)
            speed = round(outlet.tokens_per_s, 2)
            yield sse.encode(events.metrics(outlet.tokens_out, decode_ms, speed, self._service.memory()))

    def _terminal(self, ending: Ending) -> dict[str, object]:
        outlet = self._outlet
        if ending.error is not None:
            return _error_event(ending.error)
        assert ending.stop_reason is not None
        return events.end(
            events.StopReason(ending.stop_reason.value),
            tokens_out=outlet.tokens_out,
            decode_time_ms=round(outlet.decode_s * 1000),
            prompt_tokens=outlet.prompt_tokens,
            ttft_ms=outlet.ttft_ms,
            seed=outlet.seed,
        )

    async def _within_deadline(self, writing: Awaitable[None]) -> None:
        """A reader who takes nothing for the deadline loses the connection."""
        try:
            async with asyncio.timeout(WRITE_DEADLINE_S):
                await writing
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ReaderGone from None

    def _log_end(self, ending: Ending) -> None:
        outlet = self._outlet
        reason = ending.error.code if ending.error is not None else getattr(ending.stop_reason, "value", "")
        log.event(
            _log,
            "sequence ended",
            logging.INFO,
            job_id=outlet.job_id,
            reason=reason,
            prompt_tokens=outlet.prompt_tokens,
            tokens_out=outlet.tokens_out,
            ttft_ms=outlet.ttft_ms,
            tokens_per_s=round(outlet.tokens_per_s, 1),
        )


def _logprobs(tokens: tuple[Drawn, ...]) -> list[TokenLogprob]:
    return [
        TokenLogprob(drawn.token_id, drawn.logprob, tuple(Likely(*one) for one in drawn.top))
        for drawn in tokens
        if drawn.logprob is not None
    ]


def _error_event(error: LlorchError) -> dict[str, object]:
    retry_after_ms = None if error.retry_after_s is None else round(error.retry_after_s * 1000)
    return events.error(error.code, error.message, retriable=error.retriable, retry_after_ms=retry_after_ms)
