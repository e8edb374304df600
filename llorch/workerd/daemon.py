"""The life of a loaded worker: listen, announce, serve, drain, leave. One TaskGroup owns every task."""

from __future__ import annotations

import asyncio
import logging
import socket

from llorch.base import log
from llorch.host import process
from llorch.host.notify import Notifier
from llorch.web.listening import Listener
from llorch.wire.announce import Announcement, Heartbeat
from llorch.workerd import routes
from llorch.workerd.access import Tokens
from llorch.workerd.announce import Announcer
from llorch.workerd.engine import Engine
from llorch.workerd.service import Service
from llorch.workerd.target import reachable_url

CONNECTIONS_MAX = 512  # twice the largest number of slots, and below the descriptors of every system
CLOSE_S = 1.0
THREAD_LEAVES_S = 5.0
_log = log.get(__name__)


class Daemon:
    """Runs once. `failed` is set when the step thread died: then the exit code is 1."""

    def __init__(
        self,
        service: Service,
        engine: Engine,
        sock: socket.socket,
        *,
        bind: str,
        grace_s: float,
        notifier: Notifier | None = None,
    ) -> None:
        self.service = service
        self.failed = False
        self._engine = engine
        self._sock = sock
        self._bind = bind
        self._grace_s = grace_s
        self._notifier = notifier or Notifier()
        self._asked = asyncio.Event()
        self._signals = 0
        self._give_up_at: float | None = None
        self._patience: asyncio.Timeout | None = None

    @property
    def port(self) -> int:
        """The port in use, also when it was chosen by the system."""
        return int(self._sock.getsockname()[1])

    @property
    def url(self) -> str:
        """Where this worker is reached from this machine."""
        return reachable_url(self._bind, self.port, None)

    async def serve(self, tokens: Tokens) -> Listener:
        """Start the step thread and listen. Raises HostError."""
        app = routes.build(self.service, guard=tokens.guard, drain=self.drain, shut_down=self.stop)
        listener = Listener(app, CONNECTIONS_MAX)
        await listener.start(self._sock)
        self._engine.start()
        process.on_stop(asyncio.get_running_loop(), self.signalled)
        return listener

    async def live(self, listener: Listener, announcer: Announcer) -> int:
        """Announce and serve until told to leave; the exit code."""
        try:
            async with asyncio.TaskGroup() as tasks:
                announcing = tasks.create_task(announcer.run())
                beating = tasks.create_task(self._beat())
                await self._until_left()
                announcing.cancel()
                beating.cancel()
        finally:
            await listener.stop()
            await asyncio.to_thread(self._engine.stop, THREAD_LEAVES_S)
        log.event(_log, "left", logging.INFO, failed=self.failed)
        return 1 if self.failed else 0

    async def _beat(self) -> None:
        """Tell the service manager that we work: not when the loop hangs, nor when the step thread does."""
        while self._notifier.watchdog_s is not None:
            if self.service.stepping:
                self._notifier.alive()
            await asyncio.sleep(self._notifier.watchdog_s)

    def drain(self) -> None:
        """Take nothing new; leave when the last stream is done."""
        if not self._asked.is_set():
            self._notifier.stopping(f"draining {self.service.slots_busy} sequences")
        self.service.drain()
        self._asked.set()

    def stop(self) -> None:
        """Leave now: live streams end with a retriable error."""
        self.drain()
        self.service.abandon()
        self._limit(CLOSE_S)

    def die(self) -> None:
        """The step thread has died."""
        log.event(_log, "the step thread died", logging.CRITICAL)
        self.failed = True
        self.stop()

    def signalled(self) -> None:
        """SIGTERM or SIGINT: drain within the grace time; the second one stops at once."""
        self._signals += 1
        if self._signals > 1:
            self.stop()
            return
        log.event(_log, "draining", slots_busy=self.service.slots_busy)
        self.drain()
        self._limit(self._grace_s)

    def announcement(self) -> Announcement:
        """What the orchestrator is told first."""
        facts = self.service.facts
        return Announcement(
            worker_id=facts.worker_id,
            url=self.url,
            model=facts.model,
            backend=facts.backend,
            slots_total=facts.slots_total,
            context_length=facts.context_length,
            vram_bytes=self.service.memory(),
            protocol=facts.protocol,
            version=facts.version,
            capabilities=facts.capabilities,
        )

    def heartbeat(self) -> Heartbeat:
        """What it is told every second."""
        service = self.service
        return Heartbeat(
            slots_busy=service.slots_busy,
            slots_total=service.facts.slots_total,
            tokens_per_s=round(service.engine.progress.tokens_per_s, 2),
            state=service.state.value,
            vram_bytes=service.memory(),
            live_jobs=service.live_jobs,
            prefixes=service.prefixes(),
        )

    def _limit(self, seconds: float) -> None:
        at = asyncio.get_running_loop().time() + seconds
        self._give_up_at = at if self._give_up_at is None else min(at, self._give_up_at)
        if self._patience is not None:
            self._patience.reschedule(self._give_up_at)

    async def _until_left(self) -> None:
        await self._asked.wait()
        try:
            async with asyncio.timeout_at(self._give_up_at) as self._patience:
                await self.service.until_idle()
        except TimeoutError:
            log.event(_log, "streams cut", logging.WARNING, streams=self.service.slots_busy)
        finally:
            self._patience = None
        self.service.abandon()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.service.until_idle()
        except TimeoutError:
            pass  # readers who do not read: their connections are closed with the server
