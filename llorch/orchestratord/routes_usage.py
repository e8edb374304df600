"""`/v2/usage`: what a tenant took by day, what it has now, and what it may."""

from __future__ import annotations

from aiohttp import web

from llorch.base.errors import InvalidRequest
from llorch.core.tenant import DAY_S
from llorch.orchestratord import views
from llorch.orchestratord.service import SERVICE
from llorch.web.answers import json_response

DAYS_DEFAULT = 7
DAYS_MAX = 400


async def usage(request: web.Request) -> web.Response:
    """`GET /v2/usage?days=`: the caller's tenant; in home mode every tenant that took anything, too."""
    service = request.app[SERVICE]
    tenant = await service.tenant(request)
    days = _days(request)
    today = int(service.clock.now() // DAY_S)
    stored = await service.store.usage(today - days + 1, tenant if service.access.isolated else None)
    tenants = sorted({tenant, *(record.tenant for record in stored)})
    shown = [
        views.usage(service.brain.usage(name), [record for record in stored if record.tenant == name])
        for name in tenants
    ]
    return json_response({"days": days, "tenants": shown})


def _days(request: web.Request) -> int:
    """Today counts as one. Raises InvalidRequest."""
    text = request.query.get("days", str(DAYS_DEFAULT))
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= DAYS_MAX):
        raise InvalidRequest(f"days must be a whole number from 1 to {DAYS_MAX}")
    return int(text)


ROUTES = [web.get("/v2/usage", usage, allow_head=False)]
