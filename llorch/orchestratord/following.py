"""Sending a job's events to one client: live, or again after the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from llorch.base.errors import OutputExpired, StorageUnavailable
from llorch.orchestratord import views
from llorch.orchestratord.service import Found, Service
from llorch.orchestratord.streams import JobStream, Reader
from llorch.store.segments import Segment
from llorch.web.listening import Connection
from llorch.wire import sse


async def follow(request: web.Request, service: Service, found: Found, after: int | None) -> web.StreamResponse:
    """The rest of a job's stream, live where the job lives. Raises OutputExpired before anything is sent."""
    if found.stream is None:
        return await replay(request, service, found, after)
    return await _send(request, service, Reader(found.stream, after))


async def replay(request: web.Request, service: Service, found: Found, after: int | None) -> web.StreamResponse:
    """The stream of an ended job, from its segment and its record. Raises OutputExpired."""
    ending = found.record.ending
    assert ending is not None, "a job without a stream has ended"
    stream = JobStream(found.record.spec.job_id, _segment(service, found))
    stream.finish(views.terminal_event(ending))
    return await _send(request, service, Reader(stream, after))


def text_of(service: Service, found: Found) -> str | None:
    """The text so far; None once it is no longer kept."""
    if found.stream is not None:
        return found.stream.segment.text()
    try:
        segment = _segment(service, found)
    except OutputExpired:
        return None
    text = segment.text()
    segment.release()
    return text


def _segment(service: Service, found: Found) -> Segment:
    """The segment of an ended job. Raises OutputExpired, also when it is shorter than it was at the job's end."""
    if not found.output_kept:
        raise OutputExpired()
    segment = service.segments.open(found.record.spec.job_id)
    least = found.last_id if found.last_id is not None else int(found.record.started_at is not None)
    if segment.last_id < least:
        segment.release()
        raise OutputExpired("the output of this job was damaged on disk; its record is at GET /v2/tasks/{id}")
    return segment


async def _send(request: web.Request, service: Service, reader: Reader) -> web.StreamResponse:
    response = web.StreamResponse(headers=sse.HEADERS)
    loop = asyncio.get_running_loop()
    connection = request.protocol
    if isinstance(connection, Connection):
        reader.cut = connection.abort
    await response.prepare(request)
    reader.last_write_at = loop.time()
    reader.push = _push_to(request, response, reader)
    service.streams.attached.add(reader)
    try:
        with reader:
            async for piece in reader:
                reader.write_began_at = loop.time()
                await response.write(piece)
                reader.last_write_at = reader.write_began_at
                reader.write_began_at = None
        reader.write_began_at = loop.time()
        await response.write_eof()
    except StorageUnavailable:
        reader.cut()  # better a broken stream, which can be resumed, than one that seems whole
    finally:
        service.streams.attached.discard(reader)
    return response


def _push_to(request: web.Request, response: web.StreamResponse, reader: Reader) -> Callable[[bytes], bool] | None:
    """Writes to the connection of an answer whose head has been sent, if all before has left this process."""
    transport = request.transport
    if transport is None:
        return None
    chunked = response.headers.get("Transfer-Encoding") == "chunked"
    now = asyncio.get_running_loop().time

    def push(frames: bytes) -> bool:
        if transport.is_closing() or transport.get_write_buffer_size():
            return False
        transport.write(b"%x\r\n%b\r\n" % (len(frames), frames) if chunked else frames)
        reader.last_write_at = now()
        return True

    return push
