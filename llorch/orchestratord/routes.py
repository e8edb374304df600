"""The application: every route, behind the one edge."""

from __future__ import annotations

from aiohttp import web

from llorch.orchestratord import routes_policy, routes_status, routes_tasks, routes_workers
from llorch.orchestratord.service import SERVICE, Service
from llorch.web import edge


def application(service: Service) -> web.Application:
    """The aiohttp application of one orchestratord."""
    app = edge.application()
    app[SERVICE] = service
    app.add_routes([*routes_status.ROUTES, *routes_tasks.ROUTES, *routes_workers.ROUTES, *routes_policy.ROUTES])
    return app
