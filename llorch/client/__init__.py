"""The Python SDK: submit jobs to orchestratord, follow their events, cancel them; sync and async.

One sans-IO core (`calls`, `answers`, `resume`) is shared by `Client` (http.client) and `AsyncClient` (aiohttp).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llorch.client.events import (
    End,
    ErrorEvent,
    InferenceEvent,
    Loading,
    Metrics,
    Queued,
    Started,
    Token,
)
from llorch.client.request import InferenceRequest, Priority

if TYPE_CHECKING:
    from llorch.client.aio import AsyncClient, AsyncEventStream
    from llorch.client.sync import Client, EventStream, JobHandle
    from llorch.client.worker import WorkerClient

__all__ = [
    "AsyncClient",
    "AsyncEventStream",
    "Client",
    "End",
    "ErrorEvent",
    "EventStream",
    "InferenceEvent",
    "InferenceRequest",
    "JobHandle",
    "Loading",
    "Metrics",
    "Priority",
    "Queued",
    "Started",
    "Token",
    "WorkerClient",
]

_LAZY = {
    "AsyncClient": "aio",
    "AsyncEventStream": "aio",
    "Client": "sync",
    "EventStream": "sync",
    "JobHandle": "sync",
    "WorkerClient": "worker",
}


def __getattr__(name: str) -> object:
    """Load the clients on first use: the sync one must not pay for aiohttp."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f"llorch.client.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'llorch.client' has no attribute {name!r}")
