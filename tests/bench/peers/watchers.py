"""Clients that watch paced streams for gaps while others submit jobs: a process of its own, see child.py."""

from __future__ import annotations

import asyncio
import sys
from time import perf_counter
from typing import Any

import aiohttp
from peers import child, loop
from peers.figures import percentile

from llorch.base.errors import HostError

BEGIN_S = 30.0
SESSION_S = 120.0


class Gaps:
    """Times between tokens of the same stream, in seconds, while it is `open`."""

    def __init__(self, streams: int) -> None:
        self.open = False
        self.seen: list[float] = []
        self.all_begun = asyncio.Event()
        self._left = streams

    async def watch(self, session: aiohttp.ClientSession, url: str, task: dict[str, Any]) -> None:
        """Read one stream until it is cancelled."""
        last: float | None = None
        async with session.post(f"{url}/v2/tasks", json={**task, "stream": True}) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                if b'"token"' not in line:
                    continue
                now = perf_counter()
                if last is None:
                    self._left -= 1
                    if not self._left:
                        self.all_begun.set()
                elif self.open:
                    self.seen.append(now - last)
                last = now
        raise HostError("a watched stream ended too soon")


async def _submit(session: aiohttp.ClientSession, url: str, task: dict[str, Any]) -> float | None:
    """Seconds until the job was done; None when it was not."""
    began = perf_counter()
    async with session.post(f"{url}/v2/tasks", json={**task, "wait": True}) as answer:
        body = await answer.json()
    return perf_counter() - began if body.get("status") == "completed" else None


async def _watch(
    url: str, watched: dict[str, Any], streams: int, submitted: dict[str, Any], per_s: float, seconds: float
) -> dict[str, Any]:
    """The gaps in so many streams while jobs are submitted at an even pace."""
    gaps = Gaps(streams)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=SESSION_S)
    )
    async with session, asyncio.TaskGroup() as group:
        watchers = [group.create_task(gaps.watch(session, url, watched)) for _ in range(streams)]
        async with asyncio.timeout(BEGIN_S):
            await gaps.all_begun.wait()
        gaps.open = True
        jobs = []
        for _ in range(round(per_s * seconds)):
            jobs.append(group.create_task(_submit(session, url, submitted)))
            await asyncio.sleep(1 / per_s)
        took = [await job for job in jobs]
        gaps.open = False
        for watcher in watchers:
            watcher.cancel()
    done = [seconds for seconds in took if seconds is not None]
    return {
        "gap_max_ms": max(gaps.seen) * 1000,
        "gap_p99_ms": percentile(gaps.seen, 0.99) * 1000,
        "job_max_ms": max(done, default=0.0) * 1000,
        "jobs": len(jobs),
        "jobs_lost": len(jobs) - len(done),
    }


def load() -> tuple[dict[str, Any], dict[str, child.Measure]]:
    """Nothing has to be made ready."""
    return {"python": sys.version.split()[0]}, {"watch": lambda **given: loop.run(_watch(**given))}


if __name__ == "__main__":
    child.serve(load)
