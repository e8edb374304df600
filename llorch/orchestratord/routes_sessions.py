"""`/v2/sessions`: declare a line of jobs with limits of its own, look at it, be done with it."""

from __future__ import annotations

import asyncio

from aiohttp import web

from llorch.base import ids
from llorch.base.errors import SessionNotFound
from llorch.base.ids import SESSION_ID, SessionId, TenantId
from llorch.core.events import SessionClosed, SessionOpened
from llorch.core.session import SESSION_TTL_S, SessionLimits, SessionRecord
from llorch.orchestratord import views
from llorch.orchestratord.service import SERVICE, Service
from llorch.web.answers import json_response
from llorch.web.bodies import read_optional_object
from llorch.wire.sessions import parse_session


async def create(request: web.Request) -> web.Response:
    """`POST /v2/sessions`: 201; 200 when it was open already, with the new limits from now on."""
    service = request.app[SERVICE]
    tenant = await service.tenant(request)
    wanted = parse_session(await read_optional_object(request))
    service.must_be_ready()
    session_id = ids.new_session_id() if wanted.session_id is None else SessionId(wanted.session_id)
    limits = SessionLimits(wanted.ttl_s or SESSION_TTL_S, wanted.tokens_max, wanted.time_max_s)
    status = 201 if service.brain.session(tenant, session_id) is None else 200
    await asyncio.shield(service.driver.tell(SessionOpened(tenant, session_id, limits)))
    return json_response(views.session(_known(service, tenant, session_id)), status)


async def listing(request: web.Request) -> web.Response:
    """`GET /v2/sessions`: this tenant's, the one used last first."""
    service = request.app[SERVICE]
    tenant = await service.tenant(request)
    found = sorted(service.brain.sessions(tenant), key=lambda record: -record.used_at)
    return json_response({"sessions": [views.session(record) for record in found]})


async def show(request: web.Request) -> web.Response:
    """`GET /v2/sessions/{id}`."""
    service = request.app[SERVICE]
    tenant = await service.tenant(request)
    return json_response(views.session(_known(service, tenant, request.match_info["session_id"])))


async def close(request: web.Request) -> web.Response:
    """`DELETE /v2/sessions/{id}`: its jobs go on."""
    service = request.app[SERVICE]
    tenant = await service.tenant(request)
    record = _known(service, tenant, request.match_info["session_id"])
    await asyncio.shield(service.driver.tell(SessionClosed(tenant, record.session_id)))
    return json_response(views.session(record))


def _known(service: Service, tenant: TenantId, session_id: str) -> SessionRecord:
    """An open session of this tenant. Raises SessionNotFound, also for another tenant's."""
    found = service.brain.session(tenant, SessionId(session_id)) if SESSION_ID.fullmatch(session_id) else None
    if found is None:
        raise SessionNotFound()
    return found


ROUTES = [
    web.post("/v2/sessions", create),
    web.get("/v2/sessions", listing, allow_head=False),
    web.get("/v2/sessions/{session_id}", show, allow_head=False),
    web.delete("/v2/sessions/{session_id}", close),
]
