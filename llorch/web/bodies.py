"""Request bodies: bounded in size and in time, uncompressed, one JSON object."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from llorch.base.errors import BodyTooLarge, InvalidRequest, UnsupportedMedia
from llorch.wire import strict_json

SIZE_MAX = 8 << 20
DEADLINE_S = 8.0
RATE_MIN = 256 << 10


async def read_object(request: web.Request) -> dict[str, Any]:
    """The JSON object of a request, whatever its Content-Type says. Raises InvalidRequest and its kin."""
    return strict_json.parse_object(await read_body(request))


async def read_optional_object(request: web.Request) -> dict[str, Any]:
    """Like `read_object`, where no body means {}."""
    data = await read_body(request)
    return strict_json.parse_object(data) if data.strip() else {}


async def read_body(request: web.Request) -> bytes:
    """The body: at most 8 MiB, within 8 s plus a second for each 256 KiB that came.

    Raises UnsupportedMedia for a compressed one, BodyTooLarge, and InvalidRequest (408 for one that is too slow).
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMedia()
    if (request.content_length or 0) > SIZE_MAX:
        raise _too_large()
    try:
        if request.content.is_eof():  # it came with the head, as most do
            return _bounded(request.content.read_nowait())
        return await _read_slow(request)
    except web.RequestPayloadError:
        raise InvalidRequest("the request body broke off") from None


async def _read_slow(request: web.Request) -> bytes:
    began = asyncio.get_running_loop().time()
    data = bytearray()
    try:
        async with asyncio.timeout_at(began + DEADLINE_S) as limit:
            async for chunk in request.content.iter_any():
                data += chunk
                if len(data) > SIZE_MAX:
                    raise _too_large()
                limit.reschedule(began + DEADLINE_S + len(data) / RATE_MIN)
    except TimeoutError:
        error = InvalidRequest("the request body did not come in time")
        error.status = 408
        raise error from None
    return bytes(data)


def _bounded(data: bytes) -> bytes:
    if len(data) > SIZE_MAX:
        raise _too_large()
    return data


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"the request body is larger than {SIZE_MAX} bytes")
