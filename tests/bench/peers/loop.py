"""The event loop that orchestratord uses, for peers and clients: uvloop where it is installed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end on a fresh loop."""
    with asyncio.Runner(loop_factory=factory()) as runner:
        return runner.run(work)


def factory() -> Any:
    """What makes the loop; None: asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
