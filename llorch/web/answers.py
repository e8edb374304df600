"""The shape of answers: JSON bodies, and errors as `spec/http.md` has them."""

from __future__ import annotations

import math

from aiohttp import web

from llorch.base.errors import BodyTooLarge, InvalidRequest, LlorchError, MethodNotAllowed, RouteNotFound
from llorch.wire import strict_json
from llorch.wire.execute import CORRELATION_HEADER

SERVER = "llorch"


def json_response(value: object, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(body=strict_json.dump(value), status=status, content_type="application/json")


def error_response(error: LlorchError, correlation_id: str) -> web.Response:
    """An error as an HTTP answer, with Retry-After where it says when to come back."""
    response = json_response(error.body(correlation_id), error.status)
    sign(response, correlation_id)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def http_error_response(error: web.HTTPException, correlation_id: str) -> web.Response:
    """What aiohttp refuses by itself, in our shape: its own texts may repeat what the client sent."""
    response = error_response(_translated(error), correlation_id)
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response


def sign(response: web.StreamResponse, correlation_id: str) -> None:
    """The headers that every answer carries; ours names no version."""
    response.headers[CORRELATION_HEADER] = correlation_id
    response.headers["Server"] = SERVER


def _translated(error: web.HTTPException) -> LlorchError:
    if error.status == 404:
        return RouteNotFound()
    if error.status == 405:
        return MethodNotAllowed()
    if error.status == 413:
        return BodyTooLarge()
    other = InvalidRequest("the request cannot be served")
    other.status = error.status
    return other
