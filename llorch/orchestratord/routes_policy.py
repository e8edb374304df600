"""`/v2/policy`: the script in force, trying one, putting one in force, taking it away, and what one would change."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from llorch.base import ids
from llorch.orchestratord.policy_file import PolicyFile, plain_report
from llorch.orchestratord.service import SERVICE
from llorch.orchestratord.simulator import DURATION_DEFAULT_S, DURATION_MAX_S, Wanted
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


async def remove(request: web.Request) -> web.Response:
    """`DELETE /v2/policy`: the built-in policy from now on."""
    service = request.app[SERVICE]
    await service.tenant(request)
    await service.policy.remove()
    return json_response(view(service.policy))


async def simulate(request: web.Request) -> web.Response:
    """`POST /v2/policy/simulate`: drawn jobs over a described fleet, under the built-in policy and a script."""
    service = request.app[SERVICE]
    await service.tenant(request)
    service.policy.must_be_open()
    fields = Fields(await read_object(request), ("fleet", "source", "seed", "duration_s"))
    fleet = fields.raw("fleet")
    if not isinstance(fleet, dict):
        fields.problem("fleet", "must be an object with workers and arrivals")
    source = fields.text("source", size_max=SCRIPT_MAX_BYTES)
    seed = fields.integer("seed", 0, ids.SEED_MAX)
    duration_s = fields.integer("duration_s", 1, DURATION_MAX_S)
    fields.done()
    wanted = Wanted(fleet, source, 1 if seed is None else seed, duration_s or DURATION_DEFAULT_S)
    return json_response(await service.simulator.run(wanted))


async def _source(request: web.Request) -> str:
    fields = Fields(await read_object(request), ("source",))
    source = fields.required_text("source", size_max=SCRIPT_MAX_BYTES)
    fields.done()
    return source


ROUTES = [
    web.get("/v2/policy", show, allow_head=False),
    web.post("/v2/policy/check", check),
    web.post("/v2/policy/deploy", deploy),
    web.post("/v2/policy/simulate", simulate),
    web.delete("/v2/policy", remove),
]
