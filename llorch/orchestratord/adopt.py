"""Workers that an operator added by URL: they do not know us, so their `/health` is asked once a second instead.

Which workers these are is part of their stored records, so it outlives a restart. One that announces itself after all
is left to its own heartbeats.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import Any

import aiohttp

from llorch import PROTOCOL
from llorch.base import ids, log
from llorch.base.errors import InvalidRequest, WorkerUnavailable
from llorch.base.ids import ModelId, WorkerId
from llorch.core.events import Event, HeartbeatReceived, WorkerAnnounced
from llorch.core.worker import Load, WorkerRecord, WorkerSpec
from llorch.orchestratord import upstream
from llorch.orchestratord.addresses import pool_of
from llorch.wire import strict_json
from llorch.wire.announce import HEARTBEAT_S, Announcement, Heartbeat, parse_announcement, parse_heartbeat
from llorch.wire.execute import CORRELATION_HEADER

logger = log.get(__name__)

ADOPTED_MAX = 1000
HEALTH_SIZE_MAX = 1 << 20


def spec_of(announcement: Announcement) -> WorkerSpec:
    """What the brain keeps of an announcement; its pool is the host of its URL, or behind its tunnel."""
    return WorkerSpec(
        worker_id=WorkerId(announcement.worker_id),
        url=announcement.url,
        model=ModelId(announcement.model),
        backend=announcement.backend,
        pool=pool_of(announcement.url),
        slots_total=announcement.slots_total,
        context_length=announcement.context_length,
        vram_bytes=announcement.vram_bytes,
        version=announcement.version,
        protocol=announcement.protocol,
        protocol_ok=announcement.protocol == PROTOCOL,
    )


def _adopted(health: dict[str, Any], url: str) -> WorkerSpec:
    """The worker that answered at `url`, as one that we have to ask. Raises InvalidRequest."""
    return replace(spec_of(parse_announcement({**health, "url": url})), adopted=True)


def load_of(heartbeat: Heartbeat) -> Load:
    """What the brain keeps of a heartbeat."""
    return Load(
        slots_busy=heartbeat.slots_busy,
        tokens_per_s=heartbeat.tokens_per_s,
        vram_bytes=heartbeat.vram_bytes,
        draining=heartbeat.state == "draining",
    )


class Contact(Enum):
    """How we stand with a worker when the watch over it begins."""

    SEEN = "seen"  # it was looked at a moment ago
    LOST = "lost"  # what is known of it is from before a restart


class Adopter:
    """Asks added workers how they are, as long as the brain has them on its list as added ones."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        group: asyncio.TaskGroup,
        known: Callable[[WorkerId], WorkerRecord | None],
        post: Callable[[Event], None],
    ) -> None:
        """`known`: what the brain has on its list."""
        self._session = session
        self._group = group
        self._known = known
        self._post = post
        self._watched: set[WorkerId] = set()

    async def look(self, url: str, correlation_id: str) -> WorkerSpec:
        """The worker at `url`. Raises WorkerUnavailable, InvalidRequest when it is not one of ours."""
        return _adopted(await self._health(url, correlation_id), url)

    def check_room(self, worker_id: WorkerId) -> None:
        """Raises WorkerUnavailable when no further worker can be watched."""
        if worker_id not in self._watched and len(self._watched) >= ADOPTED_MAX:
            raise WorkerUnavailable(f"at most {ADOPTED_MAX} workers can be added by URL; others announce themselves")

    def keep(self, worker_id: WorkerId, contact: Contact) -> None:
        """Renew the lease of this worker from now on, for as long as it stays an added one."""
        if worker_id not in self._watched:
            self._watched.add(worker_id)
            self._group.create_task(self._watch(worker_id, contact), name=f"adopted {worker_id}")

    def _url(self, worker_id: WorkerId) -> str | None:
        record = self._known(worker_id)
        return record.spec.url if record is not None and record.spec.adopted else None

    async def _watch(self, worker_id: WorkerId, contact: Contact) -> None:
        correlation_id = ids.correlation_id(None)
        log.correlation.set(correlation_id)
        try:
            while (url := self._url(worker_id)) is not None:
                contact = await self._ask(worker_id, url, contact, correlation_id)
                await asyncio.sleep(HEARTBEAT_S)
        finally:
            self._watched.discard(worker_id)

    async def _ask(self, worker_id: WorkerId, url: str, contact: Contact, correlation_id: str) -> Contact:
        """One look; after silence the worker is announced anew, since another process may have come in its place."""
        try:
            body = await self._health(url, correlation_id)
            if body.get("worker_id") != worker_id:
                raise WorkerUnavailable("another worker listens there now")
            spec, load = _adopted(body, url), load_of(parse_heartbeat(body))
        except (WorkerUnavailable, InvalidRequest) as error:
            if contact is Contact.SEEN:
                log.event(logger, f"an added worker does not answer: {error.message}", worker_id=worker_id)
            return Contact.LOST
        if self._url(worker_id) == url:  # nobody took it off the list meanwhile
            if contact is Contact.LOST:
                self._post(WorkerAnnounced(spec))
            self._post(HeartbeatReceived(worker_id, load))
        return Contact.SEEN

    async def _health(self, url: str, correlation_id: str) -> dict[str, Any]:
        headers = {CORRELATION_HEADER: correlation_id}
        try:
            async with asyncio.timeout(upstream.CALL_TIMEOUT_S):
                async with self._session.get(url + "/health", headers=headers, allow_redirects=False) as response:
                    data = await upstream.read_limited(response, HEALTH_SIZE_MAX)
                    if response.status != 200:
                        raise WorkerUnavailable(f"the worker's /health answered HTTP {response.status}")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            raise WorkerUnavailable("nothing answers at this URL") from None
        try:
            return strict_json.parse_object(data)
        except InvalidRequest:
            raise WorkerUnavailable("what answers at this URL is not a worker") from None
