"""Connections: how many, how long they may be silent, and the answers to what never becomes a request."""

from __future__ import annotations

import asyncio
import socket
import ssl
import weakref
from typing import Any, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from llorch.base import log
from llorch.base.errors import InvalidRequest, LlorchError
from llorch.web import sockets
from llorch.web.answers import error_response, http_error_response
from llorch.web.edge import correlation_of, has_begun

logger = log.get(__name__)

HEADER_SIZE_MAX = 16 << 10
HEADER_COUNT_MAX = 100
HEADER_DEADLINE_S = 8.0
IDLE_TIMEOUT_S = 75.0
BACKLOG = 1024
LEAVE_S = 1.0
HANDLER_LIMITS: dict[str, Any] = {
    "keepalive_timeout": IDLE_TIMEOUT_S,
    "max_line_size": HEADER_SIZE_MAX,
    "max_field_size": HEADER_SIZE_MAX,
    "max_headers": HEADER_COUNT_MAX,
    "lingering_time": 2.0,
    "auto_decompress": False,
    "access_log": None,
}


class Connection(RequestHandler):
    """One client connection; errors outside of our handlers take our shape, too."""

    __slots__ = ("__weakref__",)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that is not HTTP (400), or to a bug of ours (500).

        `message` may hold what the client sent and stays here. Raises ConnectionError when an answer has begun.
        """
        error: LlorchError
        if status >= 500:
            logger.error("a request handler failed", exc_info=exc if exc is not None else True)
            error = LlorchError("internal error")
        else:
            error = InvalidRequest("the request is not valid HTTP")
            error.status = status
        if has_begun(request):
            raise ConnectionError("the answer broke off")
        response = error_response(error, correlation_of(request))
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send; what aiohttp refused before the middleware (an Expect it does not know) is translated here."""
        if isinstance(resp, web.HTTPException):
            resp = http_error_response(resp, correlation_of(request))
        return await super().finish_response(request, resp, start_time)

    def silent(self) -> bool:
        """Has it sent no whole request since it was opened?"""
        return self._request_count == 0 and self._current_request is None

    def abort(self) -> None:
        """Close at once, whatever is still unsent."""
        if self.transport is not None:
            _abort(self.transport)


class _Refused(asyncio.Protocol):
    """A connection above the limit: closed at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        _abort(transport)


def _abort(transport: asyncio.BaseTransport) -> None:
    cast(asyncio.Transport, transport).abort()  # uvloop's transports are no subclass of asyncio's


class Listener:
    """A listening socket and its connections. A client that goes away cancels its handler."""

    def __init__(self, app: web.Application, connections_max: int) -> None:
        self._runner = web.AppRunner(
            app, handle_signals=False, handler_cancellation=True, shutdown_timeout=LEAVE_S, **HANDLER_LIMITS
        )
        self.connections_max = connections_max
        self._server: asyncio.Server | None = None

    async def start(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Serve on a socket of `sockets.bound_socket`. Raises HostError."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        address, port = sock.getsockname()[:2]
        sockets.share_with_lingering(sock)
        handshake_s = None if tls is None else HEADER_DEADLINE_S
        try:
            self._server = await loop.create_server(
                self._connect, sock=sock, ssl=tls, backlog=BACKLOG, ssl_handshake_timeout=handshake_s
            )
        except OSError as error:
            await self._runner.cleanup()
            raise sockets.bind_error(error, address, port) from None

    def _connect(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        assert server is not None
        if len(server.connections) >= self.connections_max:
            return _Refused()
        loop = asyncio.get_running_loop()
        connection = Connection(server, loop=loop, **HANDLER_LIMITS)
        loop.call_later(HEADER_DEADLINE_S, _cut_silent, weakref.ref(connection))
        return connection

    def close(self) -> None:
        """Take no further connections; open ones go on."""
        if self._server is not None:
            self._server.close()

    async def stop(self) -> None:
        """End every connection."""
        self.close()
        await self._runner.cleanup()


def _cut_silent(reference: weakref.ref[Connection]) -> None:
    connection = reference()
    if connection is not None and connection.silent():
        connection.abort()
