"""`/health`, `/healthz`, `/readyz`, `/metrics` and `/v2/models`."""

from __future__ import annotations

from collections import Counter

from aiohttp import web

from llorch.base.errors import Draining
from llorch.core.worker import WorkerState
from llorch.orchestratord import views
from llorch.orchestratord.live_configuration import Condition as ConfigCondition
from llorch.orchestratord.live_configuration import LiveConfiguration
from llorch.orchestratord.policy_file import PolicyFile
from llorch.orchestratord.service import SERVICE, Phase
from llorch.scripting.policy import Condition
from llorch.web.answers import json_response


async def health(request: web.Request) -> web.Response:
    """`GET /health`: counts, key-free; `policy` where there is a script or should be one."""
    service = request.app[SERVICE]
    counts = service.brain.counts()
    return json_response(
        {
            "status": "healthy",
            "pools": counts.pools,
            "workers": counts.workers,
            "queue_depth": counts.queue_depth,
            **_policy(service.policy),
            **_config(service.config),
        }
    )


def _policy(policy: PolicyFile) -> dict[str, object]:
    """How the policy script does, where there is one or should be one."""
    loaded, condition = policy.scripted.loaded, policy.condition
    if condition is Condition.NONE:
        return {}
    if loaded is None:
        return {"policy": condition.value}
    script = {"name": loaded.name, "sha256": loaded.sha256[:12], "hooks": sorted(loaded.hooks)}
    return {"policy": condition.value, "policy_script": script}


def _config(config: LiveConfiguration) -> dict[str, object]:
    """Said when llorch.toml cannot be used, or some of it counts after a restart."""
    return {} if config.condition is ConfigCondition.GOOD else {"config": config.condition.value}


async def alive(request: web.Request) -> web.Response:
    """`GET /healthz`: the process answers."""
    return json_response({"status": "ok"})


async def takes_work(request: web.Request) -> web.Response:
    """`GET /readyz`: 503 while starting or draining."""
    phase = request.app[SERVICE].phase
    if phase is not Phase.READY:
        raise Draining(f"orchestratord is {phase.value}", retry_after_s=5)
    return json_response({"status": phase.value})


async def metrics(request: web.Request) -> web.Response:
    """`GET /metrics`: Prometheus text, key-free: it holds no prompt or key, and names of tenants for operators only."""
    service = request.app[SERVICE]
    counts = service.brain.counts()
    states = Counter(record.state for record in service.brain.workers())
    gauges = {
        "llorch_queue_depth": float(counts.queue_depth),
        "llorch_jobs_running": float(counts.running),
        "llorch_pools": float(counts.pools),
        "llorch_streams_live": float(len(service.streams)),
    }
    text = service.metrics.text(gauges, {state.value: float(states[state]) for state in WorkerState})
    if service.access.is_operators(request):
        text += service.metrics.tenants.text()
    text += "\n".join(service.config.readings.lines()) + "\n"
    return web.Response(body=text.encode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


async def models(request: web.Request) -> web.Response:
    """`GET /v2/models`: what can be served, from all workers."""
    service = request.app[SERVICE]
    await service.tenant(request)
    return json_response({"models": views.models(service.brain.workers())})


ROUTES = [
    web.get("/health", health),
    web.get("/healthz", alive),
    web.get("/readyz", takes_work),
    web.get("/metrics", metrics, allow_head=False),
    web.get("/v2/models", models, allow_head=False),
]
