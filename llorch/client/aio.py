"""The asyncio client over aiohttp: the same calls, answers and resume rules as the blocking one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from random import Random
from types import TracebackType
from typing import Any, Self

import aiohttp

from llorch.base.errors import LlorchError, Unreachable
from llorch.client import answers, calls, endpoint
from llorch.client.answers import Accepted, Answer
from llorch.client.events import End, ErrorEvent, InferenceEvent
from llorch.client.request import InferenceRequest
from llorch.client.resume import Resume
from llorch.client.sync import OnClose
from llorch.wire.sessions import SessionRequest

_ANSWER = aiohttp.ClientTimeout(total=endpoint.ANSWER_TIMEOUT_S, connect=endpoint.CONNECT_TIMEOUT_S)
_STREAM = aiohttp.ClientTimeout(
    total=None, connect=endpoint.CONNECT_TIMEOUT_S, sock_read=endpoint.STREAM_IDLE_TIMEOUT_S
)


class AsyncEventStream(AsyncIterator[InferenceEvent]):
    """The events of one job, ending after its terminal event; closing it early cancels the job unless told to leave it.

    `async with` it, or call `aclose`: nothing can be awaited for a stream that is only dropped.
    """

    def __init__(
        self,
        job_id: str,
        events: AsyncGenerator[InferenceEvent, None],
        cancel: Callable[[], Awaitable[object]] | None,
    ) -> None:
        """`cancel` is called once when the stream is left before its terminal event; its LlorchErrors do not matter."""
        self.job_id = job_id
        self._events = events
        self._cancel = cancel

    async def __anext__(self) -> InferenceEvent:
        try:
            event = await anext(self._events)
        except LlorchError:
            await self.aclose()
            raise
        if isinstance(event, (End, ErrorEvent)):
            self._cancel = None
        return event

    async def aclose(self) -> None:
        """Stop following; idempotent."""
        await self._events.aclose()
        cancel, self._cancel = self._cancel, None
        if cancel is not None:
            with suppress(LlorchError):
                await cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()


@dataclass(frozen=True, slots=True)
class AsyncJobHandle:
    """An accepted job: what the 202 said, and what can be done with it."""

    accepted: Accepted
    client: AsyncClient

    @property
    def job_id(self) -> str:
        """The id that orchestratord gave."""
        return self.accepted.job_id

    def events(self) -> AsyncEventStream:
        """All events from the first one; closing leaves the job alone."""
        return self.client.follow(self.job_id)

    async def record(self) -> dict[str, Any]:
        """The job's record now."""
        return await self.client.job(self.job_id)

    async def cancel(self) -> dict[str, Any]:
        """Ask for the end of the job; idempotent."""
        return await self.client.cancel(self.job_id)


class AsyncClient:
    """Talks to one orchestratord; use it as `async with AsyncClient(url) as client`."""

    def __init__(self, url: str = endpoint.DEFAULT_URL, *, key: str | None = None, rng: Random | None = None) -> None:
        """`key` defaults to LLORCH_API_KEY, "" means none; `rng` jitters the back-off."""
        given = key if key is not None else endpoint.read_key(os.environ)
        self.endpoint = endpoint.parse(url, given or None)
        self._rng = rng or Random()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            tls = self.endpoint.tls()
            connector = aiohttp.TCPConnector(limit=0, ssl=tls if tls is not None else True)
            self._session = aiohttp.ClientSession(connector=connector)
        return self._session

    @asynccontextmanager
    async def _response(
        self, call: calls.Call, timeout: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        where = self.endpoint
        try:
            async with self._open().request(
                call.method,
                f"{where.url}{call.path}",
                data=call.body,
                headers={**where.headers(), **call.headers},
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                yield response
        except (aiohttp.ClientError, OSError, TimeoutError) as failure:
            raise answers.unreachable(where.url, str(failure) or type(failure).__name__) from None

    @staticmethod
    async def _read(response: aiohttp.ClientResponse) -> Answer:
        body = bytearray()
        async for data in response.content.iter_any():
            body += data
            if len(body) > answers.ANSWER_SIZE_MAX:
                raise LlorchError("the answer is too large")
        return Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, bytes(body))

    async def _fetch(self, call: calls.Call) -> Answer:
        async with self._response(call, _ANSWER) as response:
            return await self._read(response)

    async def _object(self, call: calls.Call) -> dict[str, Any]:
        return answers.json_object(await self._fetch(call))

    async def enqueue(self, request: InferenceRequest) -> AsyncJobHandle:
        """Submit a job and return at once."""
        return AsyncJobHandle(answers.accepted(await self._fetch(calls.submit(request))), self)

    async def stream(self, request: InferenceRequest) -> AsyncGenerator[InferenceEvent, None]:
        """Submit a job at the first step and follow it to its end; closing the iterator early cancels the job."""
        handle = await self.enqueue(request)
        async with self.follow(handle.job_id, on_close=OnClose.CANCEL) as events:
            async for event in events:
                yield event

    def follow(self, job_id: str, *, on_close: OnClose = OnClose.LEAVE) -> AsyncEventStream:
        """The events of a job from its first one, across dropped connections and restarts of orchestratord."""
        cancel = partial(self.cancel, job_id) if on_close is OnClose.CANCEL else None
        return AsyncEventStream(job_id, self._follow(Resume(job_id, self._rng)), cancel)

    async def _follow(self, resume: Resume) -> AsyncGenerator[InferenceEvent, None]:
        while not resume.finished:
            connection = self._connection(resume)
            try:
                async for event in connection:
                    yield event
            except LlorchError as reason:
                await asyncio.sleep(resume.dropped(reason))
            finally:
                await connection.aclose()

    async def _connection(self, resume: Resume) -> AsyncGenerator[InferenceEvent, None]:
        resume.connected()
        async with self._response(calls.events(resume.job_id, resume.last_event_id), _STREAM) as response:
            if response.status != 200:
                raise answers.error(await self._read(response))
            async for data in response.content.iter_any():
                for event in resume.feed(data):
                    yield event
                if resume.finished:
                    return
        raise Unreachable(f"{self.endpoint.url} ended the stream early")

    async def cancel(self, job_id: str) -> dict[str, Any]:
        """Ask for the end of a job; idempotent."""
        return await self._object(calls.cancel(job_id))

    async def job(self, job_id: str) -> dict[str, Any]:
        """One job's record."""
        return await self._object(calls.job(job_id))

    async def jobs(
        self, *, status: str | None = None, limit: int | None = None, cursor: str | None = None
    ) -> dict[str, Any]:
        """`{"tasks": [...], "next": ...}`, newest first; `cursor` continues behind a page's `next`."""
        return await self._object(calls.jobs(status, limit, cursor))

    async def explain(self, job_id: str) -> dict[str, Any]:
        """Every decision taken on a job."""
        return await self._object(calls.explain(job_id))

    async def open_session(
        self,
        session_id: str | None = None,
        *,
        ttl_s: float | None = None,
        tokens_max: int | None = None,
        time_max_s: float | None = None,
    ) -> dict[str, Any]:
        """Declare a session (no id: a fresh one); one that is open already gets these limits."""
        wanted = SessionRequest(session_id, ttl_s, tokens_max, time_max_s)
        return await self._object(calls.open_session(wanted))

    async def sessions(self) -> dict[str, Any]:
        """`{"sessions": [...]}`: the tenant's open ones, the one used last first."""
        return await self._object(calls.sessions())

    async def session(self, session_id: str) -> dict[str, Any]:
        """One open session: its limits and what of them is used."""
        return await self._object(calls.session(session_id))

    async def close_session(self, session_id: str) -> dict[str, Any]:
        """Be done with a session; its jobs go on."""
        return await self._object(calls.close_session(session_id))

    async def usage(self, days: int | None = None) -> dict[str, Any]:
        """What the tenant took by day (today and `days` - 1 before), has now, and may."""
        return await self._object(calls.usage(days))

    async def health(self) -> dict[str, Any]:
        """Counts and state of the cluster."""
        return await self._object(calls.health())

    async def workers(self) -> dict[str, Any]:
        """The workers orchestratord knows."""
        return await self._object(calls.workers())

    async def add_worker(self, url: str, *, pool: str | None = None) -> dict[str, Any]:
        """Use the worker at a URL from now on; with `pool`, one on the loopback of that pool, behind its tunnel."""
        return await self._object(calls.add_worker(url, pool))

    async def register_pool(self, host: str) -> dict[str, Any]:
        """Let workers on `host` be used."""
        return await self._object(calls.register_pool(host))

    async def pools(self, max_age_s: int | None = None) -> dict[str, Any]:
        """The pools orchestratord knows; it asks those anew whose facts are older than `max_age_s`."""
        return await self._object(calls.pools(max_age_s))

    async def policy(self) -> dict[str, Any]:
        """The policy script in force and how it does."""
        return await self._object(calls.policy())

    async def deploy_policy(self, source: str) -> dict[str, Any]:
        """Put a policy script in force; answers as `policy` does."""
        return await self._object(calls.deploy_policy(source))

    async def remove_policy(self) -> dict[str, Any]:
        """Go back to the built-in policy; answers as `policy` does."""
        return await self._object(calls.remove_policy())

    async def models(self) -> dict[str, Any]:
        """What can be served."""
        return await self._object(calls.models())
