"""Straight to one worker, with no orchestrator between: `/execute`, `/cancel`, `/health`. Nothing is resumed here."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from typing import Any

from llorch.base.errors import LlorchError, WorkerLost
from llorch.client import answers, calls, endpoint, http
from llorch.client.events import End, ErrorEvent, InferenceEvent, from_wire
from llorch.client.sync import EventStream
from llorch.wire.execute import ExecuteRequest
from llorch.wire.sse import EventReader


class WorkerClient:
    """Talks to one worker; `token` is the cluster's worker token when the worker asks for one."""

    def __init__(self, url: str, *, token: str | None = None) -> None:
        self.endpoint = endpoint.parse(url, token)

    def execute(self, request: ExecuteRequest) -> EventStream:
        """Run a job and follow it to its end; closing the iterator early cancels it on the worker."""
        return EventStream(request.job_id, self._execute(request))

    def _execute(self, request: ExecuteRequest) -> Generator[InferenceEvent, None, None]:
        """Sends the request at its first step; cancels only what the worker accepted: a refused id may be another's."""
        reader = EventReader()
        accepted = finished = False
        try:
            for data in http.stream(self.endpoint, calls.worker_execute(request)):
                accepted = True
                for frame in reader.feed(data):
                    event = from_wire(frame.data)
                    finished = finished or isinstance(event, (End, ErrorEvent))
                    if event is not None:
                        yield event
                    if finished:
                        return
            raise WorkerLost("the worker ended the stream early")
        finally:
            if accepted and not finished:
                with suppress(LlorchError):
                    self.cancel(request.job_id)

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Free the job's slot."""
        return answers.json_object(http.fetch(self.endpoint, calls.worker_cancel(job_id)))

    def drain(self, timeout_s: float = endpoint.ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """Have it take nothing new, finish what runs, and exit."""
        return answers.json_object(http.fetch(self.endpoint, calls.worker_drain(), timeout_s))

    def health(self, timeout_s: float = endpoint.ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """The worker's own view of itself."""
        return answers.json_object(http.fetch(self.endpoint, calls.health(), timeout_s))
