"""Many clients that read streams of tokens whose text is when they were sent: a process of its own, see child.py.

Of each token only that time is read. What it costs is the same whoever sends the stream.
"""

from __future__ import annotations

import asyncio
import re
import sys
from functools import partial
from time import monotonic_ns
from typing import Any, cast
from urllib.parse import urlsplit

import psutil
from peers import child, loop
from peers.figures import percentile

from llorch.base.errors import HostError

SENT = re.compile(rb'"t":"(\d+)"')
BEGIN_S = 30.0


class Window:
    """Delays of the tokens that come while it is open, in nanoseconds."""

    def __init__(self) -> None:
        self.open = False
        self.delays: list[int] = []
        self.begun = 0
        self.over = 0


class Stream(asyncio.Protocol):
    """One stream on a connection of its own."""

    def __init__(self, window: Window, request: bytes) -> None:
        self._window = window
        self._request = request
        self._rest = b""
        self._begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        now = monotonic_ns()
        data = self._rest + data
        cut = data.rfind(b"\n\n") + 2
        self._rest = data[cut:] if cut > 1 else data
        for sent in SENT.findall(data, 0, max(cut, 0)):
            if not self._begun:
                self._begun = True
                self._window.begun += 1
            if self._window.open:
                self._window.delays.append(now - int(sent))

    def connection_lost(self, exc: Exception | None) -> None:
        self._window.over += 1


async def _read(url: str, path: str, body: str, streams: int, seconds: float, pid: int) -> dict[str, Any]:
    """All streams at once; delays and the CPU time of process `pid` while all of them are under way."""
    place = urlsplit(url)
    window, running = Window(), asyncio.get_running_loop()
    transports = []
    for number in range(streams):
        data = body.replace("NUMBER", str(number)).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {place.netloc}\r\nAccept: text/event-stream\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        stream = partial(Stream, window, head.encode() + data)
        transports.append((await running.create_connection(stream, place.hostname, place.port))[0])
    async with asyncio.timeout(BEGIN_S):
        while window.begun < streams:
            if window.over:
                raise HostError(f"{window.over} of {streams} streams were closed at once")
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)
    process = psutil.Process(pid)
    before, began = process.cpu_times(), running.time()
    window.open = True
    await asyncio.sleep(seconds)
    window.open = False
    after, took_s = process.cpu_times(), running.time() - began
    if window.over:
        raise HostError(f"{window.over} of {streams} streams ended too soon")
    for transport in transports:
        transport.abort()
    spent_s = after.user + after.system - before.user - before.system
    return {
        "tokens_per_s": len(window.delays) / took_s,
        "p50_ms": percentile(window.delays, 0.5) / 1e6,
        "p99_ms": percentile(window.delays, 0.99) / 1e6,
        "cpu_us": spent_s / len(window.delays) * 1e6,
    }


def load() -> tuple[dict[str, Any], dict[str, child.Measure]]:
    """Nothing has to be made ready."""
    return {"python": sys.version.split()[0]}, {"read": lambda **given: loop.run(_read(**given))}


if __name__ == "__main__":
    child.serve(load)
