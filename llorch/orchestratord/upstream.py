"""What goes to workers over HTTP: one connection pool, and how a worker's refusal reads."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import aiohttp.tracing
from aiohttp.client_proto import ResponseHandler

from llorch.base.errors import InvalidRequest
from llorch.base.ids import JobId
from llorch.core.job import Failure
from llorch.core.refusals import failure_of
from llorch.orchestratord.addresses import tunnelled_pool
from llorch.wire import strict_json
from llorch.wire.events import error_code
from llorch.wire.execute import CORRELATION_HEADER, DEADLINE_HEADER

Session = aiohttp.ClientSession
# A socket to a port of the loopback behind a worker URL's host. Raises OSError.
Tunnel = Callable[[str, int], Awaitable[socket.socket]]

CONNECT_TIMEOUT_S = 3.0
CALL_TIMEOUT_S = 5.0
ANSWER_SIZE_MAX = 32 << 20
ERROR_SIZE_MAX = 64 << 10
READ_BUFFER_SIZE = 64 << 10
USER_TIMEOUT_MS = 10_000


class _Connector(aiohttp.TCPConnector):
    """TCP, but for workers behind a tunnel: those are connected to by it, and never by name."""

    def __init__(self, tunnel: Tunnel) -> None:
        super().__init__(limit=0, ttl_dns_cache=60, socket_factory=_socket)
        self._tunnel = tunnel

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[aiohttp.tracing.Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        host, port = req.url.host or "", req.url.port or 80
        if tunnelled_pool(host) is None:
            return await super()._create_connection(req, traces, timeout)
        try:
            sock = await self._tunnel(host, port)
        except OSError as error:
            raise aiohttp.ClientConnectorError(req.connection_key, error) from error
        _, protocol = await self._loop.create_unix_connection(self._factory, sock=sock)
        return protocol


def open_session(tunnel: Tunnel) -> aiohttp.ClientSession:
    """The pool of connections to workers; a peer that does not acknowledge for 10 s is closed."""
    connector = _Connector(tunnel)
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
        auto_decompress=False,
        read_bufsize=READ_BUFFER_SIZE,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _socket(info: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, _ = info
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    return sock


def attempt_name(job_id: JobId, attempt: int) -> str:
    """The job id a worker sees: a worker that lost touch with us may still hold an earlier attempt's."""
    return job_id if attempt == 1 else f"{job_id}.a{attempt}"


def execute_body(payload: bytes, name: str, token_ids: list[int], next_i: int) -> bytes:
    """The `/execute` body: the job's payload (a JSON object) with the attempt's own fields put in front."""
    own: dict[str, Any] = {"job_id": name}
    if token_ids:
        own["resume"] = {"token_ids": token_ids, "next_i": next_i}
    return strict_json.dump(own)[:-1] + b"," + payload[1:]


def headers(token: str | None, correlation_id: str, deadline_unix: float | None = None) -> dict[str, str]:
    """The headers of a call to a worker; `token` is the cluster's worker token."""
    fields = {"Content-Type": "application/json", "Accept": "text/event-stream, application/json"}
    if token is not None:
        fields["Authorization"] = f"Bearer {token}"
    if correlation_id:
        fields[CORRELATION_HEADER] = correlation_id
    if deadline_unix is not None:
        fields[DEADLINE_HEADER] = str(max(0, int(deadline_unix * 1000)))
    return fields


async def read_limited(response: aiohttp.ClientResponse, size_max: int) -> bytes:
    """A body of at most `size_max` bytes; what lies behind is not read. Raises aiohttp.ClientError."""
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > size_max:
            raise aiohttp.ClientPayloadError("the answer is too large")
    return bytes(data)


async def refusal(response: aiohttp.ClientResponse) -> Failure:
    """Why a worker did not take the job, from its status and error body."""
    code, message = None, f"the worker answered HTTP {response.status}"
    try:
        error = strict_json.parse_object(await read_limited(response, ERROR_SIZE_MAX)).get("error")
    except (InvalidRequest, aiohttp.ClientError):
        error = None
    if isinstance(error, dict):
        code, message = error_code(error.get("code")), str(error.get("message", message))[:500]
    wait = response.headers.get("Retry-After", "")
    retry_after_s = float(wait) if wait.isdigit() and len(wait) < 6 else None
    return failure_of(response.status, code, message, retry_after_s)
