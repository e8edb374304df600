"""What the routes share: the parts of one running orchestratord, and whether it takes work."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

from aiohttp import web

from llorch.base.errors import Draining, JobNotFound, StorageUnavailable
from llorch.base.ids import JOB_ID, JobId, ModelId, TenantId
from llorch.core.brain import Brain
from llorch.core.job import JobRecord
from llorch.core.worker import WorkerSpec
from llorch.orchestratord.access import Access
from llorch.orchestratord.actuator import Actuator
from llorch.orchestratord.adopt import Adopter, Contact
from llorch.orchestratord.clock import BrainClock
from llorch.orchestratord.driver import Driver
from llorch.orchestratord.known_models import CatalogWatch
from llorch.orchestratord.live_configuration import LiveConfiguration
from llorch.orchestratord.metrics import Metrics
from llorch.orchestratord.policy_file import PolicyFile
from llorch.orchestratord.pool_facts import PoolFacts
from llorch.orchestratord.simulator import Simulator
from llorch.orchestratord.streams import JobStream, Streams
from llorch.orchestratord.tunnels import Tunnels
from llorch.store.segments import Segments
from llorch.store.store import Store

CATALOG_EVERY_S = 1.0


class Phase(Enum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(slots=True)
class Service:
    """One running orchestratord, as its routes see it."""

    access: Access
    brain: Brain
    clock: BrainClock
    driver: Driver
    store: Store
    segments: Segments
    streams: Streams
    metrics: Metrics
    adopter: Adopter
    catalog: CatalogWatch
    policy: PolicyFile
    simulator: Simulator
    pools: PoolFacts
    actuator: Actuator
    config: LiveConfiguration
    carriers: Counter[JobId] = field(default_factory=Counter)  # requests whose connection carries a job's answer
    phase: Phase = Phase.STARTING
    keys_checked_at: float = 0.0
    catalog_read_at: float = 0.0

    @property
    def tunnels(self) -> Tunnels:
        """To the pools that have one."""
        return self.actuator.tunnels

    async def take_in(self, url: str, correlation_id: str) -> WorkerSpec:
        """Use the worker at `url` from now on, and ask it how it is. Raises WorkerUnavailable, InvalidRequest."""
        spec = await self.adopter.look(url, correlation_id)
        self.adopter.check_room(spec.worker_id)
        self.access.vouch(spec.worker_id, spec.url)
        await asyncio.shield(self.driver.announce(spec))
        self.adopter.keep(spec.worker_id, Contact.SEEN)
        return spec

    def must_be_ready(self) -> None:
        """Raises Draining unless new work is taken."""
        if self.phase is not Phase.READY:
            raise Draining(f"orchestratord is {self.phase.value}", retry_after_s=5)

    async def tenant(self, request: web.Request) -> TenantId:
        """Whose request this is; a key made a moment ago counts. Raises Unauthorized."""
        now = time.monotonic()
        if now - self.keys_checked_at > 1.0:
            self.keys_checked_at = now
            self.access.set_keys(await self.store.current_keys())
        return self.access.tenant(request)

    def refresh_catalog(self, model: ModelId | None = None) -> None:
        """Tell the brain what the catalog says if that has changed; asks the file system only.

        For the sake of a `model` that the brain knows it is asked once a second.
        """
        now = time.monotonic()
        if model is not None and now - self.catalog_read_at < CATALOG_EVERY_S and self.brain.knows_model(model):
            return
        self.catalog_read_at = now
        if (news := self.catalog.news()) is not None:
            self.driver.post(news)

    async def find(self, job_id: str, tenant: TenantId) -> Found:
        """A job by id: live from the brain, ended from the store. Raises JobNotFound, also for another tenant's."""
        if not JOB_ID.fullmatch(job_id):
            raise JobNotFound()
        await self.driver.admitted(JobId(job_id))
        record = self.brain.job(JobId(job_id))
        stream = self.streams.get(job_id)
        if record is None and stream is not None:
            # Its end has been decided and is being committed: what we say must still be true after a crash.
            await stream.decided.wait()
            if not stream.finished.is_set():
                raise StorageUnavailable("the end of the job cannot be stored now", retry_after_s=5)
        output_kept, last_id = True, None
        if record is None:
            stored = await self.store.job(job_id)
            if stored is None:
                raise JobNotFound()
            record, output_kept, last_id = stored.record, stored.output_kept, stored.last_id
        if self.access.isolated and record.spec.tenant != tenant:
            raise JobNotFound()
        return Found(record, stream, output_kept, last_id)


@dataclass(frozen=True, slots=True)
class Found:
    """A job, its stream while it lives, and whether its output can still be read.

    `last_id`: of the last frame that its segment held when it ended; None: not known.
    """

    record: JobRecord
    stream: JobStream | None
    output_kept: bool
    last_id: int | None


SERVICE = web.AppKey("service", Service)
