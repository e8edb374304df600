"""One request over http.client, with time-outs everywhere: whole answers and streams; no redirects, no proxies."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import closing, contextmanager

from llorch.base.errors import LlorchError
from llorch.client.answers import ANSWER_SIZE_MAX, Answer, error, unreachable
from llorch.client.calls import Call
from llorch.client.endpoint import ANSWER_TIMEOUT_S, CONNECT_TIMEOUT_S, STREAM_IDLE_TIMEOUT_S, Endpoint

CHUNK_SIZE_MAX = 64 << 10


def _connection(endpoint: Endpoint, timeout_s: float) -> http.client.HTTPConnection:
    tls = endpoint.tls()
    if tls is not None:
        return http.client.HTTPSConnection(endpoint.host, endpoint.port, timeout=timeout_s, context=tls)
    return http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=timeout_s)


def _reason(failure: OSError | http.client.HTTPException) -> str:
    if isinstance(failure, OSError):
        return failure.strerror or str(failure) or type(failure).__name__
    return "the connection was cut" if isinstance(failure, http.client.IncompleteRead) else type(failure).__name__


@contextmanager
def _response(endpoint: Endpoint, call: Call, timeout_s: float) -> Iterator[http.client.HTTPResponse]:
    """Send `call` and give its response; I/O failures inside the block become Unreachable."""
    with closing(_connection(endpoint, min(CONNECT_TIMEOUT_S, timeout_s))) as connection:
        try:
            import encodings.idna  # noqa: F401  (a look-up needs it; here it says why it cannot be loaded)

            connection.connect()
            connection.sock.settimeout(timeout_s)
            headers = {**endpoint.headers(), **call.headers}
            connection.request(call.method, endpoint.prefix + call.path, call.body, headers)
            with closing(connection.getresponse()) as response:
                yield response
        except (OSError, http.client.HTTPException) as failure:
            raise unreachable(endpoint.url, _reason(failure)) from None


def _read(response: http.client.HTTPResponse) -> Answer:
    body = response.read(ANSWER_SIZE_MAX + 1)
    if len(body) > ANSWER_SIZE_MAX:
        raise LlorchError("the answer is too large")
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


def fetch(endpoint: Endpoint, call: Call, timeout_s: float = ANSWER_TIMEOUT_S) -> Answer:
    """The whole answer to `call`; no step of it may take longer than `timeout_s`. Raises Unreachable."""
    with _response(endpoint, call, timeout_s) as response:
        return _read(response)


def stream(endpoint: Endpoint, call: Call) -> Iterator[bytes]:
    """The bytes of a streamed answer as they come; ends when the peer ends the body.

    The first item is empty: the peer has accepted. Raises the error of a bad answer, and Unreachable when the stream
    breaks or falls silent.
    """
    with _response(endpoint, call, STREAM_IDLE_TIMEOUT_S) as response:
        if response.status != 200:
            raise error(_read(response))
        yield b""
        while data := response.read1(CHUNK_SIZE_MAX):
            yield data
