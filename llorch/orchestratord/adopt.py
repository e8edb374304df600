"""Workers that an operator added by URL: they do not know us, so their `/health` is asked once a second instead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp

from llorch import PROTOCOL
from llorch.base import log
from llorch.base.errors import InvalidRequest, WorkerUnavailable
from llorch.base.ids import ModelId, PoolId, WorkerId
from llorch.core.events import Event, HeartbeatReceived, WorkerAnnounced
from llorch.core.worker import Load, WorkerSpec
from llorch.orchestratord import upstream
from llorch.orchestratord.addresses import host_of
from llorch.wire import strict_json
from llorch.wire.announce import HEARTBEAT_S, Announcement, Heartbeat, parse_announcement, parse_heartbeat

logger = log.get(__name__)

ADOPTED_MAX = 1000
HEALTH_SIZE_MAX = 1 << 20


def spec_of(announcement: Announcement) -> WorkerSpec:
    """What the brain keeps of an announcement; its pool is the host of its URL."""
    return WorkerSpec(
        worker_id=WorkerId(announcement.worker_id),
        url=announcement.url,
        model=ModelId(announcement.model),
        backend=announcement.backend,
        pool=PoolId(host_of(announcement.url)),
        slots_total=announcement.slots_total,
        context_length=announcement.context_length,
        vram_bytes=announcement.vram_bytes,
        version=announcement.version,
        protocol=announcement.protocol,
        protocol_ok=announcement.protocol == PROTOCOL,
    )


def load_of(heartbeat: Heartbeat) -> Load:
    """What the brain keeps of a heartbeat."""
    return Load(
        slots_busy=heartbeat.slots_busy,
        tokens_per_s=heartbeat.tokens_per_s,
        vram_bytes=heartbeat.vram_bytes,
        draining=heartbeat.state == "draining",
    )


class Adopter:
    """Asks added workers how they are; forgets one when it is gone for long or the operator says so."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        group: asyncio.TaskGroup,
        knows: Callable[[WorkerId], bool],
        post: Callable[[Event], None],
    ) -> None:
        """`knows`: is this worker still on the brain's list."""
        self._session = session
        self._group = group
        self._knows = knows
        self._post = post
        self._urls: dict[WorkerId, str] = {}

    async def look(self, url: str) -> WorkerSpec:
        """The worker at `url`. Raises WorkerUnavailable, InvalidRequest when it is not one of ours."""
        return spec_of(parse_announcement({**await self._health(url), "url": url}))

    def keep(self, spec: WorkerSpec) -> None:
        """Renew the lease of this worker from now on."""
        if spec.worker_id not in self._urls and len(self._urls) < ADOPTED_MAX:
            self._group.create_task(self._watch(spec.worker_id), name=f"adopted {spec.worker_id}")
        self._urls[spec.worker_id] = spec.url

    def forget(self, worker_id: WorkerId) -> None:
        """Ask no more."""
        self._urls.pop(worker_id, None)

    async def _watch(self, worker_id: WorkerId) -> None:
        lost = False
        while (url := self._urls.get(worker_id)) is not None and self._knows(worker_id):
            try:
                body = await self._health(url)
                if body.get("worker_id") != worker_id:
                    raise WorkerUnavailable("another worker listens there now")
                if lost:
                    self._post(WorkerAnnounced(spec_of(parse_announcement({**body, "url": url}))))
                self._post(HeartbeatReceived(worker_id, load_of(parse_heartbeat(body))))
                lost = False
            except (WorkerUnavailable, InvalidRequest) as error:
                if not lost:
                    log.event(logger, f"an added worker does not answer: {error.message}", worker_id=worker_id)
                lost = True
            await asyncio.sleep(HEARTBEAT_S)
        self.forget(worker_id)

    async def _health(self, url: str) -> dict[str, Any]:
        try:
            async with asyncio.timeout(upstream.CALL_TIMEOUT_S):
                async with self._session.get(url + "/health", allow_redirects=False) as response:
                    data = await upstream.read_limited(response, HEALTH_SIZE_MAX)
                    if response.status != 200:
                        raise WorkerUnavailable(f"the worker's /health answered HTTP {response.status}")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            raise WorkerUnavailable("nothing answers at this URL") from None
        try:
            return strict_json.parse_object(data)
        except InvalidRequest:
            raise WorkerUnavailable("what answers at this URL is not a worker") from None
