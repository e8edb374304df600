"""The one middleware around every route: correlation id in and out, and errors translated once."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from llorch.base import ids, log
from llorch.base.errors import LlorchError
from llorch.web.answers import error_response, http_error_response, sign
from llorch.wire.execute import CORRELATION_HEADER

logger = log.get(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
CORRELATION = web.RequestKey("correlation_id", str)
_BEGUN = web.RequestKey("begun", bool)


def application(*inner: Middleware) -> web.Application:
    """An application behind the edge; `inner` middlewares run inside it, so that what they raise is translated."""
    app = web.Application(middlewares=[_edge, *inner])
    app.on_response_prepare.append(_prepare)
    return app


def correlation_of(request: web.BaseRequest) -> str:
    """The correlation id of a request, also of one that did not come as far as the middleware."""
    found: str | None = request.get(CORRELATION)
    return found if found is not None else ids.correlation_id(request.headers.get(CORRELATION_HEADER))


def has_begun(request: web.BaseRequest) -> bool:
    """Has an answer to this request begun? Then no other can be sent."""
    return _BEGUN in request or request.writer.output_size > 0


@web.middleware
async def _edge(request: web.Request, handler: Handler) -> web.StreamResponse:
    request[CORRELATION] = correlation_id = correlation_of(request)
    log.correlation.set(correlation_id)
    try:
        return await handler(request)
    except LlorchError as error:
        if has_begun(request):
            raise
        if error.status >= 500:
            log.event(logger, "refused", logging.INFO, code=error.code, status=error.status)
        return error_response(error, correlation_id)
    except web.HTTPException as error:
        return http_error_response(error, correlation_id)


async def _prepare(request: web.Request, response: web.StreamResponse) -> None:
    """Streams send their head themselves, so this is the one place that sees every answer before it goes."""
    request[_BEGUN] = True
    sign(response, correlation_of(request))
