"""What surrounds every route: correlation id, access, limits, and errors translated once into one JSON body."""

from __future__ import annotations

import logging
import math

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from llorch.base import ids, log
from llorch.base.errors import (
    BodyTooLarge,
    InvalidRequest,
    LlorchError,
    MethodNotAllowed,
    RouteNotFound,
    Unauthorized,
    UnsupportedMedia,
)
from llorch.wire import strict_json
from llorch.wire.execute import CORRELATION_HEADER
from llorch.workerd.access import check_bearer

BODY_SIZE_MAX = 8 << 20
HEADER_LINE_MAX = 8190
OPEN_PATHS = ("/health",)
CORRELATION = web.RequestKey("correlation", str)
_log = log.get(__name__)


def middleware(guard: str | None) -> Middleware:
    """The one middleware of the worker; `guard` is the token asked for, None for none."""

    @web.middleware
    async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
        correlation_id = ids.correlation_id(request.headers.get(CORRELATION_HEADER))
        request[CORRELATION] = correlation_id
        context = log.correlation.set(correlation_id)
        try:
            check(request, guard)
            response = await handler(request)
        except LlorchError as error:
            response = error_response(error, correlation_id)
        except web.HTTPException as answer:
            response = error_response(_translated(answer), correlation_id)
        finally:
            log.correlation.reset(context)
        if not response.prepared:
            response.headers[CORRELATION_HEADER] = correlation_id
        return response

    return edge


def check(request: web.Request, guard: str | None) -> None:
    """Raises the error of a request that may not reach its route."""
    if request.path not in OPEN_PATHS:
        if guard is not None:
            check_bearer(guard, request.headers.get("Authorization"))
        elif "Origin" in request.headers:
            # Any web page may send a POST to loopback; no program that talks to a worker sends an Origin.
            raise Unauthorized("web pages may not talk to a worker")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMedia
    if (request.content_length or 0) > BODY_SIZE_MAX:
        raise BodyTooLarge(f"the request body is larger than {BODY_SIZE_MAX >> 20} MiB")


def _translated(answer: web.HTTPException) -> LlorchError:
    if isinstance(answer, web.HTTPNotFound):
        return RouteNotFound()
    if isinstance(answer, web.HTTPMethodNotAllowed):
        return MethodNotAllowed()
    if isinstance(answer, web.HTTPRequestEntityTooLarge):
        return BodyTooLarge(f"the request body is larger than {BODY_SIZE_MAX >> 20} MiB")
    return InvalidRequest("the request is not valid HTTP")


def error_response(error: LlorchError, correlation_id: str) -> web.Response:
    """The JSON body of an error, with Retry-After where it says when to come back."""
    response = web.Response(
        status=error.status, body=strict_json.dump(error.body(correlation_id)), content_type="application/json"
    )
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status >= 500:
        log.event(_log, "refused", logging.INFO, code=error.code, status=error.status)
    return response


def json_response(body: object, status: int = 200) -> web.Response:
    """Compact JSON."""
    return web.Response(status=status, body=strict_json.dump(body), content_type="application/json")


async def read_object(request: web.Request) -> dict[str, object]:
    """The body as a JSON object, whatever the Content-Type says."""
    body: dict[str, object] = strict_json.parse_object(await request.read())
    return body
