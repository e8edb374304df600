"""The worker's HTTP surface: one table of routes over `Service`; the contract is `spec/http.md`."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from llorch.base.errors import JobNotFound, Unauthorized
from llorch.web.answers import json_response
from llorch.web.bodies import read_object
from llorch.web.edge import application
from llorch.wire import execute as wire
from llorch.workerd.access import check_bearer
from llorch.workerd.execute import execute
from llorch.workerd.service import Known, Service, State

OPEN_PATHS = ("/health",)


def build(
    service: Service, *, guard: str | None, drain: Callable[[], None], shut_down: Callable[[], None]
) -> web.Application:
    """The application. `guard` is the token asked for; `drain` and `shut_down` end the daemon, the latter at once."""
    routes = Routes(service, drain, shut_down)
    app = application(guarding(guard))
    app.add_routes(
        [
            web.post("/execute", routes.execute),
            web.post("/tokenize", routes.tokenize),
            web.post("/cancel", routes.cancel),
            web.get("/health", routes.health),
            web.get("/readyz", routes.ready),
            web.post("/drain", routes.drain),
            web.post("/shutdown", routes.shutdown),
            web.get("/metrics", routes.metrics),
        ]
    )
    return app


def guarding(guard: str | None) -> Middleware:
    """The middleware that lets nobody in but whoever shows the token; None asks for none."""

    @web.middleware
    async def door(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in OPEN_PATHS:
            if guard is not None:
                check_bearer(guard, request.headers.get("Authorization"))
            elif "Origin" in request.headers:
                # Any web page may send a POST to loopback; no program that talks to a worker sends an Origin.
                raise Unauthorized("web pages may not talk to a worker")
        return await handler(request)

    return door


class Routes:
    """One method per route."""

    def __init__(self, service: Service, drain: Callable[[], None], shut_down: Callable[[], None]) -> None:
        self._service = service
        self._drain = drain
        self._shut_down = shut_down

    async def execute(self, request: web.Request) -> web.StreamResponse:
        """Run a job as an event stream."""
        return await execute(self._service, request)

    async def tokenize(self, request: web.Request) -> web.Response:
        """Count and ids of a prompt or messages."""
        prompt, messages = wire.parse_tokenize(await read_object(request))
        token_ids = await self._service.count(prompt, messages)
        context = self._service.facts.context_length
        return json_response({"count": len(token_ids), "ids": list(token_ids), "context_length": context})

    async def cancel(self, request: web.Request) -> web.Response:
        """202 while the job lives, 200 when it has ended lately, 404 otherwise."""
        job_id = wire.parse_cancel(await read_object(request))
        known = self._service.cancel(job_id)
        if known is Known.UNKNOWN:
            raise JobNotFound
        if known is Known.LIVE:
            return json_response({"job_id": job_id, "status": "cancelling"}, 202)
        return json_response({"job_id": job_id, "status": "ended"})

    async def health(self, request: web.Request) -> web.Response:
        """The worker's own view of itself; answers while the model computes."""
        service, facts = self._service, self._service.facts
        return json_response(
            {
                "status": "healthy" if service.stepping else "stalled",
                "vram_bytes": service.memory(),
                "worker_id": facts.worker_id,
                "model": facts.model,
                "backend": facts.backend,
                "state": service.state.value,
                "slots_total": facts.slots_total,
                "slots_busy": service.slots_busy,
                "context_length": facts.context_length,
                "tokens_per_s": round(service.engine.progress.tokens_per_s, 2),
                "last_step_ms_ago": round(service.silent_s * 1000),
                "uptime_s": round(service.clock.now() - service.started_at, 1),
                "version": facts.version,
                "protocol": facts.protocol,
                "capabilities": facts.capabilities,
            }
        )

    async def ready(self, request: web.Request) -> web.Response:
        """503 while draining, or when the step thread has work and makes no step."""
        service = self._service
        takes_work = service.state is State.READY and service.stepping
        state = service.state.value if service.stepping else "stalled"
        return json_response({"status": state}, 200 if takes_work else 503)

    async def drain(self, request: web.Request) -> web.Response:
        """Take nothing new, finish what runs, exit 0."""
        self._drain()
        return json_response({"status": "draining", "slots_busy": self._service.slots_busy}, 202)

    async def shutdown(self, request: web.Request) -> web.Response:
        """Stop now; live streams end with a retriable error."""
        self._shut_down()
        return json_response({"status": "stopping"}, 202)

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus text."""
        return web.Response(text=metrics_text(self._service), content_type="text/plain", charset="utf-8")


def metrics_text(service: Service) -> str:
    """Counters and gauges of this worker; no prompt, no job id."""
    progress = service.engine.progress
    rows: list[tuple[str, str, str, float]] = [
        ("slots_total", "gauge", "", service.facts.slots_total),
        ("slots_busy", "gauge", "", service.slots_busy),
        ("resident_bytes", "gauge", "", service.memory()),
        ("tokens_per_s", "gauge", "", round(progress.tokens_per_s, 3)),
        ("silent_seconds", "gauge", "", round(service.silent_s, 3)),
        ("draining", "gauge", "", int(service.state is State.DRAINING)),
        ("tokens_total", "counter", "", progress.tokens),
        ("positions_total", "counter", "", progress.positions),
        ("prompt_tokens_total", "counter", "", service.tally.prompt_tokens),
        ("steps_total", "counter", "", progress.steps),
        ("step_seconds_total", "counter", "", round(progress.step_seconds, 6)),
        ("prefix_lookup_tokens_total", "counter", "", progress.counts.prompt_tokens_looked_up),
        ("prefix_reused_tokens_total", "counter", "", progress.counts.prompt_tokens_reused),
        ("drafted_tokens_total", "counter", "", progress.counts.drafted),
        ("accepted_tokens_total", "counter", "", progress.counts.accepted),
        ("preemptions_total", "counter", "", progress.counts.preempted),
        ("kv_blocks_used", "gauge", "", progress.counts.blocks_used),
        ("kv_blocks_total", "gauge", "", progress.counts.blocks_total),
    ]
    rows += [
        ("jobs_total", "counter", f'{{ending="{ending}"}}', count)
        for ending, count in sorted(service.tally.endings.items())
    ]
    lines: list[str] = []
    for name, kind, labels, value in rows:
        header = f"# TYPE llorch_worker_{name} {kind}"
        if header not in lines:
            lines.append(header)
        lines.append(f"llorch_worker_{name}{labels} {value}")
    return "\n".join(lines) + "\n"
