"""Clients that post one task after the other over kept connections: a process of its own, see child.py.

As little as a client can do: a ready-made request, and of the answer only status and length are read. What it costs is
the same for every server.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from time import perf_counter
from typing import Any, cast
from urllib.parse import urlsplit

from peers import child, loop
from peers.figures import percentile

LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
ROUND_S = 120.0
SEED_FIRST = 100_000_000
STORY = "Once upon a time there was a little fox who liked the sea and the stars more than anything else. " * 4
BODY = (
    b'{"model":"demo","prompt":"%s","max_tokens":64,"temperature":0.7,"top_p":0.95,"priority":"interactive","seed":%%d}'
    % STORY.encode()
)


class Round:
    """So many requests by so many submitters; `latencies` are seconds, one for each."""

    def __init__(self, host: str, requests: int) -> None:
        size = len(BODY % SEED_FIRST)
        self._head = f"POST /v2/tasks HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n".encode()
        self._head += b"Content-Length: %d\r\n\r\n" % size
        self._requests = requests
        self.sent = 0
        self.latencies: list[float] = []
        self.problem: str | None = None
        self.over = asyncio.Event()

    def next_request(self) -> bytes | None:
        """What to send now; None when enough was sent."""
        if self.sent == self._requests:
            return None
        self.sent += 1
        return self._head + BODY % (SEED_FIRST + self.sent)

    def answered(self, seconds: float) -> None:
        """One answer came in full."""
        self.latencies.append(seconds)
        if len(self.latencies) == self._requests:
            self.over.set()

    def failed(self, problem: str) -> None:
        """The round is worth nothing."""
        self.problem = self.problem or problem
        self.over.set()


class Submitter(asyncio.Protocol):
    """One connection with one request under way."""

    def __init__(self, round_: Round) -> None:
        self._round = round_
        self._rest = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def begin(self) -> None:
        """Send the next request, if there is one left."""
        if (request := self._round.next_request()) is not None:
            self._sent_at = perf_counter()
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._rest += data
        end = self._rest.find(b"\r\n\r\n")
        if end < 0:
            return
        length = LENGTH.search(self._rest, 0, end)
        if length is None or not self._rest.startswith(b"HTTP/1.1 202 "):
            self._round.failed(f"not a 202 with a length: {self._rest[:400]!r}")
        elif len(self._rest) >= end + 4 + int(length[1]):
            self._rest = b""
            self._round.answered(perf_counter() - self._sent_at)
            self.begin()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._round.over.is_set():
            self._round.failed("the server closed a connection")


async def _submit(url: str, submitters: int, requests: int) -> dict[str, Any]:
    place = urlsplit(url)
    this = Round(place.netloc, requests)
    running = asyncio.get_running_loop()
    made = [
        await running.create_connection(lambda: Submitter(this), place.hostname, place.port) for _ in range(submitters)
    ]
    began, cpu_began = perf_counter(), sum(os.times()[:2])
    for _, submitter in made:
        submitter.begin()
    async with asyncio.timeout(ROUND_S):
        await this.over.wait()
    seconds, cpu_s = perf_counter() - began, sum(os.times()[:2]) - cpu_began
    for transport, _ in made:
        transport.close()
    if this.problem is not None:
        raise ValueError(this.problem)
    return {
        "per_s": requests / seconds,
        "p50_ms": percentile(this.latencies, 0.5) * 1000,
        "p99_ms": percentile(this.latencies, 0.99) * 1000,
        "cpu_us": cpu_s / requests * 1e6,
    }


def load() -> tuple[dict[str, Any], dict[str, child.Measure]]:
    """Nothing has to be made ready."""
    return {"python": sys.version.split()[0]}, {"submit": lambda **given: loop.run(_submit(**given))}


if __name__ == "__main__":
    child.serve(load)
