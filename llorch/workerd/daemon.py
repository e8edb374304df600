"""The life of a loaded worker: listen, announce, serve, drain, leave. One TaskGroup owns every task."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket

from aiohttp import web

from llorch.base import log
from llorch.base.errors import HostError
from llorch.host import process
from llorch.wire.announce import Announcement, Heartbeat
from llorch.workerd import edge, routes
from llorch.workerd.access import Tokens, addresses_of
from llorch.workerd.announce import Announcer, reachable_url
from llorch.workerd.engine import Engine
from llorch.workerd.service import Service

BACKLOG = 512
SEND_BUFFER_BYTES = 64 << 10
UNACKNOWLEDGED_MS_MAX = 10_000
CLOSE_S = 1.0
THREAD_LEAVES_S = 5.0
_log = log.get(__name__)


def bound_socket(bind: str, port: int) -> socket.socket:
    """A socket that owns the port but does not listen yet, so that a taken port is noticed before a model is loaded.

    A reader who stands still can fill only a small send buffer, and a cut cable is noticed in 10 s. Raises HostError.
    """
    address = min(addresses_of(bind), key=lambda found: ":" in found)
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS_MAX)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        # Two sockets that both say REUSEADDR may share a port until one listens: say it only while binding.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError as error:
        made.close()
        raise _bind_error(error, bind, port) from None
    made.setblocking(False)
    return made


def _bind_error(error: OSError, bind: str, port: int) -> HostError:
    if error.errno == errno.EADDRINUSE:
        return HostError(f"port {port} on {bind} is in use: choose another with --port, or 0 for a free one")
    return HostError(f"cannot listen on {bind} port {port}: {error.strerror or error}")


class Daemon:
    """Runs once. `failed` is set when the step thread died: then the exit code is 1."""

    def __init__(self, service: Service, engine: Engine, listener: socket.socket, *, bind: str, grace_s: float) -> None:
        self.service = service
        self.failed = False
        self._engine = engine
        self._listener = listener
        self._bind = bind
        self._grace_s = grace_s
        self._asked = asyncio.Event()
        self._signals = 0
        self._give_up_at: float | None = None
        self._patience: asyncio.Timeout | None = None

    @property
    def port(self) -> int:
        """The port in use, also when it was chosen by the system."""
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """Where this worker is reached from this machine."""
        return reachable_url(self._bind, self.port, None)

    async def serve(self, tokens: Tokens) -> web.AppRunner:
        """Start the step thread and listen. Raises HostError."""
        app = routes.build(self.service, guard=tokens.guard, drain=self.drain, shut_down=self.stop)
        runner = web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            max_line_size=edge.HEADER_LINE_MAX,
            max_field_size=edge.HEADER_LINE_MAX,
            shutdown_timeout=CLOSE_S,
        )
        await runner.setup()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            await web.SockSite(runner, self._listener, backlog=BACKLOG).start()
        except OSError as error:
            await runner.cleanup()
            raise _bind_error(error, self._bind, self.port) from None
        self._engine.start()
        process.on_stop(asyncio.get_running_loop(), self.signalled)
        return runner

    async def live(self, runner: web.AppRunner, announcer: Announcer) -> int:
        """Announce and serve until told to leave; the exit code."""
        try:
            async with asyncio.TaskGroup() as tasks:
                announcing = tasks.create_task(announcer.run())
                await self._until_left()
                announcing.cancel()
        finally:
            await runner.cleanup()
            await asyncio.to_thread(self._engine.stop, THREAD_LEAVES_S)
        log.event(_log, "left", logging.INFO, failed=self.failed)
        return 1 if self.failed else 0

    def drain(self) -> None:
        """Take nothing new; leave when the last stream is done."""
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
