"""The blocking client: no asyncio, so that a CLI starts fast; one connection per call, so that threads may share it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from random import Random
from typing import Any, Self

from llorch.base.errors import LlorchError, Unreachable
from llorch.client import answers, calls, endpoint, http
from llorch.client.answers import Accepted
from llorch.client.events import End, ErrorEvent, InferenceEvent
from llorch.client.request import InferenceRequest
from llorch.client.resume import Resume
from llorch.wire.sessions import SessionRequest

WITHDRAW_TIMEOUT_S = 5.0  # somebody has pressed Ctrl-C and waits


class OnClose(Enum):
    """What closing a stream before its end means for the job."""

    CANCEL = "cancel"
    LEAVE = "leave"


class EventStream(Iterator[InferenceEvent]):
    """The events of one job, ending after its terminal event; closing it early cancels the job unless told to leave it.

    Use it as an iterator, or `with` it to be sure that leaving the block closes it. Read or not makes no difference.
    """

    def __init__(
        self,
        job_id: str,
        events: Generator[InferenceEvent, None, None],
        cancel: Callable[[], object] | None = None,
    ) -> None:
        """`cancel` is called once when the stream is left before its terminal event; its LlorchErrors do not matter."""
        self.job_id = job_id
        self._events = events
        self._cancel = cancel

    def __next__(self) -> InferenceEvent:
        try:
            event = next(self._events)
        except LlorchError:
            self.close()
            raise
        if isinstance(event, (End, ErrorEvent)):
            self._cancel = None
        return event

    def close(self) -> None:
        """Stop following; idempotent."""
        self._events.close()
        cancel, self._cancel = self._cancel, None
        if cancel is not None:
            with suppress(LlorchError):
                cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class JobHandle:
    """An accepted job: what the 202 said, and what can be done with it."""

    accepted: Accepted
    client: Client

    @property
    def job_id(self) -> str:
        """The id that orchestratord gave."""
        return self.accepted.job_id

    def events(self) -> EventStream:
        """All events from the first one; closing leaves the job alone."""
        return self.client.follow(self.job_id)

    def record(self) -> dict[str, Any]:
        """The job's record now."""
        return self.client.job(self.job_id)

    def cancel(self) -> dict[str, Any]:
        """Ask for the end of the job; idempotent."""
        return self.client.cancel(self.job_id)


class Client:
    """Talks to one orchestratord. Every method raises LlorchError classes; Unreachable names the URL."""

    def __init__(self, url: str = endpoint.DEFAULT_URL, *, key: str | None = None, rng: Random | None = None) -> None:
        """`key` defaults to LLORCH_API_KEY, "" means none; `rng` jitters the back-off."""
        given = key if key is not None else endpoint.read_key(os.environ)
        self.endpoint = endpoint.parse(url, given or None)
        self._rng = rng or Random()

    @property
    def url(self) -> str:
        """Where orchestratord is."""
        return self.endpoint.url

    def enqueue(self, request: InferenceRequest) -> JobHandle:
        """Submit a job and return at once."""
        return JobHandle(answers.accepted(http.fetch(self.endpoint, calls.submit(request))), self)

    def stream(self, request: InferenceRequest) -> EventStream:
        """Submit a job and follow it to its end; closing the iterator early cancels the job.

        So does Ctrl-C before its id is known, when the request has an idempotency key to find it by.
        """
        try:
            return self.follow(self.enqueue(request).job_id, on_close=OnClose.CANCEL)
        except (KeyboardInterrupt, SystemExit):
            if request.idempotency_key is not None:
                self._withdraw(request)
            raise

    def _withdraw(self, request: InferenceRequest) -> None:
        """Cancel the job whose 202 nobody waited for; where it never arrived, its key makes one that ends at once."""
        with suppress(LlorchError):
            answer = http.fetch(self.endpoint, calls.submit(request), WITHDRAW_TIMEOUT_S)
            http.fetch(self.endpoint, calls.cancel(answers.accepted(answer).job_id), WITHDRAW_TIMEOUT_S)

    def follow(self, job_id: str, *, on_close: OnClose = OnClose.LEAVE) -> EventStream:
        """The events of a job from its first one, across dropped connections and restarts of orchestratord."""
        cancel = partial(self.cancel, job_id) if on_close is OnClose.CANCEL else None
        return EventStream(job_id, self._follow(Resume(job_id, self._rng)), cancel)

    def _follow(self, resume: Resume) -> Generator[InferenceEvent, None, None]:
        while not resume.finished:
            try:
                yield from self._connection(resume)
            except LlorchError as reason:
                time.sleep(resume.dropped(reason))

    def _connection(self, resume: Resume) -> Iterator[InferenceEvent]:
        resume.connected()
        for data in http.stream(self.endpoint, calls.events(resume.job_id, resume.last_event_id)):
            yield from resume.feed(data)
            if resume.finished:
                return
        raise Unreachable(f"{self.url} ended the stream early")

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Ask for the end of a job; idempotent."""
        return self._object(calls.cancel(job_id))

    def job(self, job_id: str) -> dict[str, Any]:
        """One job's record."""
        return self._object(calls.job(job_id))

    def jobs(self, *, status: str | None = None, limit: int | None = None, cursor: str | None = None) -> dict[str, Any]:
        """`{"tasks": [...], "next": ...}`, newest first; `cursor` continues behind a page's `next`."""
        return self._object(calls.jobs(status, limit, cursor))

    def explain(self, job_id: str) -> dict[str, Any]:
        """Every decision taken on a job."""
        return self._object(calls.explain(job_id))

    def open_session(
        self,
        session_id: str | None = None,
        *,
        ttl_s: float | None = None,
        tokens_max: int | None = None,
        time_max_s: float | None = None,
    ) -> dict[str, Any]:
        """Declare a session (no id: a fresh one); one that is open already gets these limits."""
        wanted = SessionRequest(session_id, ttl_s, tokens_max, time_max_s)
        return self._object(calls.open_session(wanted))

    def sessions(self) -> dict[str, Any]:
        """`{"sessions": [...]}`: the tenant's open ones, the one used last first."""
        return self._object(calls.sessions())

    def session(self, session_id: str) -> dict[str, Any]:
        """One open session: its limits and what of them is used."""
        return self._object(calls.session(session_id))

    def close_session(self, session_id: str) -> dict[str, Any]:
        """Be done with a session; its jobs go on."""
        return self._object(calls.close_session(session_id))

    def usage(self, days: int | None = None) -> dict[str, Any]:
        """What the tenant took by day (today and `days` - 1 before), has now, and may."""
        return self._object(calls.usage(days))

    def health(self) -> dict[str, Any]:
        """Counts and state of the cluster."""
        return self._object(calls.health())

    def workers(self) -> dict[str, Any]:
        """The workers orchestratord knows."""
        return self._object(calls.workers())

    def add_worker(self, url: str, *, pool: str | None = None) -> dict[str, Any]:
        """Use the worker at a URL from now on; with `pool`, one on the loopback of that pool, behind its tunnel."""
        return self._object(calls.add_worker(url, pool))

    def register_pool(self, host: str) -> dict[str, Any]:
        """Let workers on `host` be used."""
        return self._object(calls.register_pool(host))

    def pools(self, max_age_s: int | None = None) -> dict[str, Any]:
        """The pools orchestratord knows; it asks those anew whose facts are older than `max_age_s`."""
        return self._object(calls.pools(max_age_s))

    def policy(self) -> dict[str, Any]:
        """The policy script in force and how it does."""
        return self._object(calls.policy())

    def deploy_policy(self, source: str) -> dict[str, Any]:
        """Put a policy script in force; answers as `policy` does."""
        return self._object(calls.deploy_policy(source))

    def remove_policy(self) -> dict[str, Any]:
        """Go back to the built-in policy; answers as `policy` does."""
        return self._object(calls.remove_policy())

    def models(self) -> dict[str, Any]:
        """What can be served."""
        return self._object(calls.models())

    def _object(self, call: calls.Call) -> dict[str, Any]:
        return answers.json_object(http.fetch(self.endpoint, call))
