"""The HTTP edge: connections, limits, correlation ids and error answers, the same for every route."""

from __future__ import annotations

import asyncio
import socket
import ssl
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from llorch.base import ids, log
from llorch.base.errors import (
    BodyTooLarge,
    InvalidRequest,
    LlorchError,
    MethodNotAllowed,
    RouteNotFound,
    UnsupportedMedia,
)
from llorch.wire import strict_json
from llorch.wire.execute import CORRELATION_HEADER

logger = log.get(__name__)

BODY_SIZE_MAX = 8 << 20
HEADER_SIZE_MAX = 16 << 10
HEADER_COUNT_MAX = 100
HEADER_DEADLINE_S = 8.0
BODY_DEADLINE_S = 8.0
BODY_RATE_MIN = 256 << 10
IDLE_TIMEOUT_S = 75.0
SEND_BUFFER_SIZE = 64 << 10
BACKLOG = 1024
SERVER = "llorch"
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
        """The answer to a request that is not HTTP (400), or to a bug of ours (500)."""
        error: LlorchError
        if status >= 500:
            logger.error("a request handler failed", exc_info=exc)
            error = LlorchError("internal error")
        else:
            error = InvalidRequest("the request is not valid HTTP")
            error.status = status
        response = error_response(error, ids.correlation_id(None))
        response.force_close()
        return response

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
    """A listening socket and its connections."""

    def __init__(self, app: web.Application, connections_max: int) -> None:
        self._runner = web.AppRunner(
            app, handle_signals=False, handler_cancellation=True, shutdown_timeout=1.0, **HANDLER_LIMITS
        )
        self._connections_max = connections_max
        self._server: asyncio.Server | None = None

    async def start(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Serve on a bound socket."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connect, sock=sock, ssl=tls, backlog=BACKLOG)

    def _connect(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        assert server is not None
        if len(server.connections) >= self._connections_max:
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


def bound_socket(address: str, port: int) -> socket.socket:
    """A socket bound to `address`. Raises OSError; EADDRINUSE when the port is taken."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    host = "127.0.0.1" if address == "localhost" else address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by accepted sockets: what a client that does not read can pile up in the kernel.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_SIZE)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
CORRELATION = web.RequestKey("correlation_id", str)


@web.middleware
async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Correlation id in and out; every error in the shape of `spec/http.md`."""
    correlation_id = ids.correlation_id(request.headers.get(CORRELATION_HEADER))
    request[CORRELATION] = correlation_id
    log.correlation.set(correlation_id)
    response: web.StreamResponse
    try:
        response = await handler(request)
    except LlorchError as error:
        response = error_response(error, correlation_id)
    except web.HTTPException as error:
        response = error_response(_translated(error), correlation_id)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
    if not response.prepared:
        response.headers[CORRELATION_HEADER] = correlation_id
        response.headers["Server"] = SERVER
    return response


def _translated(error: web.HTTPException) -> LlorchError:
    if error.status == 404:
        return RouteNotFound()
    if error.status == 405:
        return MethodNotAllowed()
    other = InvalidRequest("the request cannot be served")
    other.status = error.status
    return other


def error_response(error: LlorchError, correlation_id: str) -> web.Response:
    """An error as an HTTP answer."""
    response = json_response(error.body(correlation_id), error.status)
    response.headers[CORRELATION_HEADER] = correlation_id
    response.headers["Server"] = SERVER
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def json_response(value: object, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(body=strict_json.dump(value), status=status, content_type="application/json")


async def read_object(request: web.Request) -> dict[str, Any]:
    """The JSON object of a request, whatever its Content-Type says. Raises InvalidRequest and its kin."""
    return strict_json.parse_object(await read_body(request))


async def read_optional_object(request: web.Request) -> dict[str, Any]:
    """Like `read_object`, where no body means {}."""
    data = await read_body(request)
    return strict_json.parse_object(data) if data.strip() else {}


async def read_body(request: web.Request) -> bytes:
    """The body, bounded in size and in time: 8 s plus a second for each 256 KiB that came."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMedia()
    if (request.content_length or 0) > BODY_SIZE_MAX:
        raise BodyTooLarge(f"the request body is larger than {BODY_SIZE_MAX} bytes")
    loop = asyncio.get_running_loop()
    began = loop.time()
    data = bytearray()
    try:
        async with asyncio.timeout_at(began + BODY_DEADLINE_S) as limit:
            async for chunk in request.content.iter_any():
                data += chunk
                if len(data) > BODY_SIZE_MAX:
                    raise BodyTooLarge(f"the request body is larger than {BODY_SIZE_MAX} bytes")
                limit.reschedule(began + BODY_DEADLINE_S + len(data) / BODY_RATE_MIN)
    except TimeoutError:
        error = InvalidRequest("the request body did not come in time")
        error.status = 408
        raise error from None
    except web.RequestPayloadError:
        raise InvalidRequest("the request body broke off") from None
    return bytes(data)
