"""The application: every route, behind the one edge."""

from __future__ import annotations

from aiohttp import web

from llorch.orchestratord import (
    routes_policy,
    routes_sessions,
    routes_status,
    routes_tasks,
    routes_usage,
    routes_workers,
)
from llorch.orchestratord.service import SERVICE, Service
from llorch.web import edge


def application(service: Service) -> web.Application:
    """The aiohttp application of one orchestratord."""
    app = edge.application()
    app[SERVICE] = service
    for part in (routes_status, routes_tasks, routes_sessions, routes_usage, routes_workers, routes_policy):
        app.add_routes(part.ROUTES)
    return app
