"""`/v2/workers` and `/v2/pools`: announcements, leases, and the operator's list."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from llorch import PROTOCOL
from llorch.base.addresses import is_loopback
from llorch.base.errors import Forbidden, InvalidRequest, PoolNotFound, WorkerNotFound
from llorch.base.ids import MODEL_ID, WORKER_ID, ModelId, PoolId, WorkerId, new_worker_id
from llorch.core.effects import PoolRecord
from llorch.core.events import (
    HeartbeatReceived,
    PoolForgotten,
    PoolRegistered,
    SpawnRequested,
    WorkerDrainRequested,
    WorkerForgetRequested,
)
from llorch.core.worker import WorkerRecord, WorkerState
from llorch.orchestratord import views
from llorch.orchestratord.addresses import is_reserved, may_add, may_announce, tunnel_url
from llorch.orchestratord.adopt import load_of, spec_of
from llorch.orchestratord.pool_facts import ASK_TIMEOUT_S, LOCAL, is_local
from llorch.orchestratord.pool_report import BACKENDS
from llorch.orchestratord.service import SERVICE, Service
from llorch.web.answers import json_response
from llorch.web.bodies import read_object, read_optional_object
from llorch.web.edge import CORRELATION
from llorch.wire.announce import HEARTBEAT_S, LEASE_S, parse_announcement, parse_heartbeat, read_worker_url
from llorch.wire.fields import Fields
from llorch.wire.tasks import POOL_NAME_MAX, pool_name

FACTS_WAIT_S = 10.0
GPU_MAX = 63


async def ready(request: web.Request) -> web.Response:
    """`POST /v2/workers/ready`: a worker announces itself; saying it twice is no error."""
    service = request.app[SERVICE]
    vouched = service.access.vouches_for_worker(request)
    spec = spec_of(parse_announcement(await read_object(request)))
    if not may_announce(spec.url, request.remote or "", service.brain.registered_pools()):
        raise InvalidRequest("url must name the address that the announcement comes from, or a registered pool")
    # Before the brain hears of it: jobs may be dispatched to the worker in the same turn.
    if vouched:
        service.access.vouch(spec.worker_id, spec.url)
    else:
        service.access.forget(spec.worker_id, spec.url)
    await asyncio.shield(service.driver.announce(spec))
    body = {"worker_id": spec.worker_id, "lease_s": LEASE_S, "heartbeat_s": HEARTBEAT_S}
    return json_response({**body, "protocol": PROTOCOL, "accepted": spec.protocol_ok})


async def heartbeat(request: web.Request) -> web.Response:
    """`POST /v2/workers/{id}/heartbeat`; 404 tells the worker to announce itself again.

    So is one that shows the token but whose address is not vouched for, as after a restart: it then may get the token.
    """
    service = request.app[SERVICE]
    shows_token = service.access.vouches_for_worker(request)
    spec = _worker(request, service).spec
    worker_id = spec.worker_id
    if shows_token and not service.access.vouched(worker_id, spec.url):
        raise WorkerNotFound("announce the worker again: its address is not vouched for")
    beat = parse_heartbeat(await read_optional_object(request))
    service.driver.post(HeartbeatReceived(worker_id, load_of(beat), frozenset(beat.prefixes)))
    return json_response({"worker_id": worker_id, "lease_s": LEASE_S})


async def listing(request: web.Request) -> web.Response:
    """`GET /v2/workers`."""
    service = request.app[SERVICE]
    await service.tenant(request)
    now = service.clock.now()
    return json_response({"workers": [views.worker(record, now) for record in service.brain.workers()]})


async def show(request: web.Request) -> web.Response:
    """`GET /v2/workers/{id}`."""
    service = request.app[SERVICE]
    await service.tenant(request)
    return json_response(views.worker(_worker(request, service), service.clock.now()))


async def add(request: web.Request) -> web.Response:
    """`POST /v2/workers`: an operator names a worker's URL; its `/health` says the rest."""
    service = request.app[SERVICE]
    await service.tenant(request)
    fields = Fields(await read_object(request), ("url", "pool"))
    fields.required_text("url")
    url, pool = read_worker_url(fields, "url"), fields.text("pool", size_max=POOL_NAME_MAX)
    fields.done()
    if pool is not None:
        url = _through_tunnel(url, PoolId(pool.lower()), service)
    elif not may_add(url, service.brain.registered_pools()):
        raise InvalidRequest("url must name loopback or a registered pool; register the host with POST /v2/pools first")
    spec = await service.take_in(url, request[CORRELATION])
    record = service.brain.worker(spec.worker_id)
    return json_response({} if record is None else views.worker(record, service.clock.now()), 201)


def _through_tunnel(url: str, pool: PoolId, service: Service) -> str:
    """The URL that we know a worker by which says `url` on its own pool. Raises NotFound, InvalidRequest, TryLater."""
    service.tunnels.must_be_open(pool)
    parts = urlsplit(url)
    if parts.scheme != "http" or not is_loopback(parts.hostname or ""):
        raise InvalidRequest("url must be http and name loopback: it is reached through the tunnel to its pool")
    return tunnel_url(pool, parts.port or 80)


async def drain(request: web.Request) -> web.Response:
    """`POST /v2/workers/{id}/drain`."""
    service = request.app[SERVICE]
    await service.tenant(request)
    worker_id = _worker(request, service).spec.worker_id
    await service.driver.tell(WorkerDrainRequested(worker_id, request[CORRELATION]))
    return json_response({"worker_id": worker_id, "state": WorkerState.DRAINING.value}, 202)


async def forget(request: web.Request) -> web.Response:
    """`DELETE /v2/workers/{id}`: off the list; a worker that lives announces itself again."""
    service = request.app[SERVICE]
    await service.tenant(request)
    spec = _worker(request, service).spec
    service.access.forget(spec.worker_id, spec.url)
    await service.driver.tell(WorkerForgetRequested(spec.worker_id))
    return json_response({"worker_id": spec.worker_id})


def _worker(request: web.Request, service: Service) -> WorkerRecord:
    worker_id = request.match_info["worker_id"]
    record = service.brain.worker(WorkerId(worker_id)) if WORKER_ID.fullmatch(worker_id) else None
    if record is None:
        raise WorkerNotFound()
    return record


# Pools


async def pools(request: web.Request) -> web.Response:
    """`GET /v2/pools[?max_age_s=N]`: our own host, registered ones and those with live workers, with what they say.

    With `max_age_s` pools whose facts are older are asked first; those that do not answer in time show the old ones.
    """
    service = request.app[SERVICE]
    await service.tenant(request)
    rows = service.brain.pools()
    if (age := _max_age_s(request)) is not None and _sees_facts(request):
        await service.pools.refresh([LOCAL, *(row.pool_id for row in rows)], age_max_s=age, wait_s=FACTS_WAIT_S)
    return json_response({"pools": [_pool_view(request, *row) for row in _with_more(rows, service.tunnels.pools())]})


def _with_more(rows: list[PoolRecord], tunnelled: list[PoolId]) -> list[tuple[PoolId, bool]]:
    """(pool, draining) of each; our own host, and those with a tunnel, are there whether they have workers or not."""
    found = {LOCAL: False, **{row.pool_id: row.draining for row in rows if row.pool_id != LOCAL}}
    return list({**found, **{pool: found.get(pool, False) for pool in tunnelled}}.items())


def _pool_view(request: web.Request, pool_id: PoolId, draining: bool) -> dict[str, Any]:
    service = request.app[SERVICE]
    own = is_local(pool_id)
    live = [worker for worker in service.brain.workers() if worker.state is not WorkerState.LOST]
    there = [w for w in live if w.spec.pool == pool_id or (pool_id == LOCAL and is_local(w.spec.pool))]
    tunnel = service.tunnels.body(pool_id)
    return {
        "id": pool_id,
        "is_local": own,
        **({} if tunnel is None else {"tunnel": tunnel}),
        "draining": draining,
        "workers": [w.spec.worker_id for w in there],
        "slots_total": sum(w.spec.slots_total for w in there),
        **(service.pools.known(pool_id).body(time.monotonic()) if _sees_facts(request) else {}),
    }


def _sees_facts(request: web.Request) -> bool:
    """Paths and processes of hosts are no business of a tenant's."""
    access = request.app[SERVICE].access
    return not access.isolated or access.is_operators(request)


def _max_age_s(request: web.Request) -> float | None:
    text = request.query.get("max_age_s")
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 9:
        raise InvalidRequest("max_age_s must be a whole number of seconds")
    return float(text)


async def refresh_pool(request: web.Request) -> web.Response:
    """`POST /v2/pools/{id}/refresh`: ask a pool how it is, now."""
    service = request.app[SERVICE]
    await service.tenant(request)
    name = PoolId(pool_name(request.match_info["pool_id"]))
    pool_id = LOCAL if is_local(name) else _pool(request, service)
    if not _sees_facts(request):
        raise Forbidden("what a pool says of itself is for operators")
    await service.pools.refresh([pool_id], age_max_s=0, wait_s=ASK_TIMEOUT_S)
    draining = {row.pool_id: row.draining for row in service.brain.pools()}.get(pool_id, False)
    return json_response(_pool_view(request, pool_id, draining))


async def register_pool(request: web.Request) -> web.Response:
    """`POST /v2/pools`: a host whose workers may be used."""
    service = request.app[SERVICE]
    await service.tenant(request)
    fields = Fields(await read_object(request), ("id", "draining"))
    name = pool_name(fields.required_text("id", size_max=POOL_NAME_MAX))
    if name and not all(c.isalnum() or c in ".-_:" for c in name):
        fields.problem("id", "must be a host name or an address")
    if is_reserved(name):
        fields.problem("id", "is a name for what lies behind tunnels")
    if name == LOCAL:
        fields.problem("id", "is orchestratord's own host, which is always there")
    draining = fields.switch("draining")
    fields.done()
    await service.driver.tell(PoolRegistered(PoolId(name), draining))
    return json_response({"id": name, "draining": draining}, 201)


async def spawn(request: web.Request) -> web.Response:
    """`POST /v2/pools/{id}/workers` {model, backend, gpu}: start a worker there; when ready it announces itself."""
    service = request.app[SERVICE]
    await service.tenant(request)
    service.must_be_ready()
    pool_id = PoolId(pool_name(request.match_info["pool_id"]))
    fields = Fields(await read_object(request), ("model", "backend", "gpu"))
    model = fields.required_text("model", size_max=64)
    backend = fields.required_text("backend", size_max=16)
    gpu = fields.integer("gpu", 0, GPU_MAX)
    if model and not MODEL_ID.fullmatch(model):
        fields.problem("model", f"must match {MODEL_ID.pattern}")
    if backend and backend not in BACKENDS:
        fields.problem("backend", f"must be one of {', '.join(BACKENDS)}")
    fields.done()
    if not service.actuator.knows(pool_id):
        raise PoolNotFound(f"llorch.toml has no pool '{pool_id[:96]}' (add it with: llorch pool register)")
    worker_id = new_worker_id(backend)
    await service.driver.tell(SpawnRequested(worker_id, pool_id, ModelId(model), backend, gpu))
    return json_response({"worker_id": worker_id, "pool": pool_id, "model": model, "state": "loading"}, 202)


async def drain_pool(request: web.Request) -> web.Response:
    """`POST /v2/pools/{id}/drain`: no new jobs for its workers."""
    service = request.app[SERVICE]
    await service.tenant(request)
    pool_id = _pool(request, service)
    await service.driver.tell(PoolRegistered(pool_id, draining=True))
    return json_response({"id": pool_id, "draining": True}, 202)


async def forget_pool(request: web.Request) -> web.Response:
    """`DELETE /v2/pools/{id}`."""
    service = request.app[SERVICE]
    await service.tenant(request)
    pool_id = _pool(request, service)
    await service.driver.tell(PoolForgotten(pool_id))
    return json_response({"id": pool_id})


def _pool(request: web.Request, service: Service) -> PoolId:
    pool_id = PoolId(pool_name(request.match_info["pool_id"]))
    if pool_id not in {pool.pool_id for pool in service.brain.pools()}:
        raise PoolNotFound()
    return pool_id


ROUTES = [
    *(web.post(path, ready) for path in ("/v2/workers/ready", "/workers/ready", "/workers/register")),
    web.post("/v2/workers/{worker_id}/heartbeat", heartbeat),
    web.get("/v2/workers", listing, allow_head=False),
    web.post("/v2/workers", add),
    web.get("/v2/workers/{worker_id}", show, allow_head=False),
    web.delete("/v2/workers/{worker_id}", forget),
    web.post("/v2/workers/{worker_id}/drain", drain),
    web.get("/v2/pools", pools, allow_head=False),
    web.post("/v2/pools", register_pool),
    web.post("/v2/pools/{pool_id}/workers", spawn),
    web.delete("/v2/pools/{pool_id}", forget_pool),
    web.post("/v2/pools/{pool_id}/drain", drain_pool),
    web.post("/v2/pools/{pool_id}/refresh", refresh_pool),
]
