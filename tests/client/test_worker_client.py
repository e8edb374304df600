"""The client that talks straight to a worker."""

from __future__ import annotations

import json
import socket
import time

import pytest

from llorch.base.errors import Unreachable, WorkerLost
from llorch.client.events import End, Token
from llorch.client.worker import WorkerClient
from llorch.wire.execute import ExecuteRequest, parse_execute
from llorch.wire.sampling import Sampling
from tests.client.conftest import TEXT, Scripted

REQUEST = ExecuteRequest("job-1", "Once", (), 8, Sampling(seed=3))


def test_execute_streams_to_the_end(server: Scripted) -> None:
    """The body is one the worker's parser takes; the token rides as bearer; the text comes whole."""
    events = list(WorkerClient(server.url, token="secret").execute(REQUEST))
    assert "".join(e.t for e in events if isinstance(e, Token)) == "".join(TEXT)
    assert isinstance(events[-1], End)
    _, path, headers, body = server.script.requests[0]
    assert path == "/execute" and headers["authorization"] == "Bearer secret"
    assert parse_execute(json.loads(body)) == REQUEST
    assert not server.script.cancelled.is_set()


def test_a_broken_worker_stream_is_an_error(server: Scripted) -> None:
    """A stream that ends without a terminal event is WorkerLost, never a short success."""
    server.script.frames = server.script.frames[:-1]
    with pytest.raises(WorkerLost):
        list(WorkerClient(server.url).execute(REQUEST))


def test_closing_early_cancels_on_the_worker(server: Scripted) -> None:
    """The job's slot is freed with POST /cancel and the job's id."""
    server.script.hold_open = True
    with WorkerClient(server.url).execute(REQUEST) as events:
        next(events)
    assert server.script.cancelled.wait(5)
    assert json.loads(server.script.requests[-1][3]) == {"job_id": "job-1"}


def test_a_silent_worker_is_not_waited_for_longer_than_asked() -> None:
    """health() with a time-out of its own: a listener that never answers is Unreachable, in that time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(Unreachable):
            WorkerClient(f"http://127.0.0.1:{silent.getsockname()[1]}").health(timeout_s=0.2)
    assert time.monotonic() - began < 5
