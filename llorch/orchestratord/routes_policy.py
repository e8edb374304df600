"""`/v2/policy`: the script in force, trying one, and putting one in force."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from llorch.orchestratord.policy_file import PolicyFile, plain_report
from llorch.orchestratord.service import SERVICE
from llorch.scripting.link import SCRIPT_MAX_BYTES
from llorch.web.answers import json_response
from llorch.web.bodies import read_object
from llorch.wire.fields import Fields


async def show(request: web.Request) -> web.Response:
    """`GET /v2/policy`: what is in force, how it does, and what was wrong with the last change."""
    service = request.app[SERVICE]
    await service.tenant(request)
    return json_response({**view(service.policy), "counters": service.metrics.policy.counts()})


def view(policy: PolicyFile) -> dict[str, Any]:
    """The script in force and its state; `name` null: the built-in policy answers everything."""
    loaded = policy.scripted.loaded
    return {
        "state": policy.condition.value,
        "name": None if loaded is None else loaded.name,
        "sha256": None if loaded is None else loaded.sha256,
        "hooks": [] if loaded is None else sorted(loaded.hooks),
        "owner": policy.place.owner.value,
        "last_error": policy.last_error,
        "source": None if loaded is None else loaded.source,
    }


async def check(request: web.Request) -> web.Response:
    """`POST /v2/policy/check`: is this script good? It is tried, and not used."""
    service = request.app[SERVICE]
    await service.tenant(request)
    return json_response(plain_report(await service.policy.check(await _source(request))))


async def deploy(request: web.Request) -> web.Response:
    """`POST /v2/policy/deploy`: this script from now on, if it is good."""
    service = request.app[SERVICE]
    await service.tenant(request)
    await service.policy.deploy(await _source(request))
    return json_response(view(service.policy))


async def _source(request: web.Request) -> str:
    fields = Fields(await read_object(request), ("source",))
    source = fields.required_text("source", size_max=SCRIPT_MAX_BYTES)
    fields.done()
    return source


ROUTES = [
    web.get("/v2/policy", show, allow_head=False),
    web.post("/v2/policy/check", check),
    web.post("/v2/policy/deploy", deploy),
]
