"""Clients that hold on to their jobs whatever dies, and note what they saw: every index, every end, every pause.

Nothing is filtered here as the SDK would: what comes twice, or not at all, is to be counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import aiohttp

from llorch.base.errors import HostError
from llorch.wire.sse import ID_FIRST_TOKEN, Event, EventReader

RETRY_S = 0.05
JOB_S = 90.0
SUBMIT = aiohttp.ClientTimeout(total=20.0)
STREAM = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=30.0)


@dataclass(frozen=True, slots=True)
class Text:
    """What a job generated."""

    ids: tuple[int, ...]
    text: str
    stop_reason: str


@dataclass(slots=True)
class Job:
    """One job as its client saw it. `arrivals` are the times of its token frames."""

    body: dict[str, Any]
    number: int
    job_id: str = ""
    last_id: int | None = None
    ids: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    repeats: int = 0
    gaps: int = 0
    connections: int = 0
    ends: list[dict[str, Any]] = field(default_factory=list)
    trouble: str = ""

    @property
    def under_way(self) -> bool:
        """Tokens have come, the end has not."""
        return bool(self.arrivals) and not self.ends

    @property
    def text(self) -> Text:
        """All of it."""
        reason = str(self.ends[0].get("stop_reason")) if self.ends else ""
        return Text(tuple(self.ids), "".join(self.pieces), reason)

    @property
    def lost(self) -> bool:
        """Accepted, but it has no good end."""
        return not self.ends or self.ends[0]["type"] != "end"

    def take(self, event: Event) -> None:
        """Note one event; those without an id say nothing about the text."""
        if event.id is None:
            return
        kind = event.data["type"]
        if kind == "token":
            index = event.data["i"]
            self.repeats += index < len(self.pieces)
            self.gaps += index > len(self.pieces) or event.id != index + ID_FIRST_TOKEN
            self.pieces.append(event.data["t"])
            self.ids += event.data["ids"]
            self.arrivals.append(monotonic())
        elif kind in ("end", "error"):
            self.ends.append(event.data)
        if self.last_id is not None and event.id <= self.last_id and kind != "token":
            self.repeats += 1
        self.last_id = event.id


class Client:
    """Submits jobs to one orchestratord and follows them to their ends."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def run(self, job: Job) -> None:
        """From submission to the end, or until the job has taken too long; then it says so in `trouble`."""
        try:
            async with asyncio.timeout(JOB_S):
                await self._submit(job)
                while not job.ends and not job.trouble:
                    job.connections += 1
                    async for event in self._events(job):
                        job.take(event)
                    if not job.ends:
                        await asyncio.sleep(RETRY_S)
        except TimeoutError:
            job.trouble = f"no end within {JOB_S:.0f} s"

    async def _submit(self, job: Job) -> None:
        """Again and again with the same key, so that it is one job. Raises HostError when it is refused for good."""
        body = {**job.body, "idempotency_key": f"failover-{job.number}"}
        while not job.job_id:
            try:
                async with self._session.post(f"{self._url}/v2/tasks", json=body, timeout=SUBMIT) as answer:
                    if answer.status < 300:
                        job.job_id = (await answer.json())["job_id"]
                        return
                    if answer.status not in (429, 503):
                        raise HostError(f"a job was refused: {await answer.text()}")
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass
            await asyncio.sleep(RETRY_S)

    async def _events(self, job: Job) -> AsyncIterator[Event]:
        """The events of one connection, from behind the last one; a connection that breaks just ends."""
        headers = {} if job.last_id is None else {"Last-Event-ID": str(job.last_id)}
        reader = EventReader()
        try:
            where = f"{self._url}/v2/tasks/{job.job_id}/events"
            async with self._session.get(where, headers=headers, timeout=STREAM) as answer:
                if answer.status != 200:
                    if answer.status != 503:
                        job.trouble = f"HTTP {answer.status} for the events of an accepted job"
                    return
                async for data in answer.content.iter_any():
                    for event in reader.feed(data):
                        yield event
        except (aiohttp.ClientError, OSError, TimeoutError):
            return

    async def again(self, job: Job) -> Job:
        """The same job read once more from its first event, as it is kept."""
        copy = Job(job.body, job.number, job.job_id)
        async for event in self._events(copy):
            copy.take(event)
        return copy

    async def attempts(self, job: Job) -> int:
        """How many attempts the job took."""
        async with self._session.get(f"{self._url}/v2/tasks/{job.job_id}", timeout=SUBMIT) as answer:
            return int((await answer.json())["attempts"])


def longest_pause_s(job: Job, since: float, until: float) -> float:
    """The longest time without a token of this job that touches the time between two moments."""
    pauses = [
        later - earlier
        for earlier, later in zip(job.arrivals, job.arrivals[1:], strict=False)
        if later > since and earlier < until
    ]
    return max(pauses, default=0.0)
