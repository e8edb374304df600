"""A worker that computes nothing: each stream gets a token every so many milliseconds, whose text is when it was sent.

It announces itself to the orchestratord named on the command line, prints its own URL, and ends with its stdin.
Run as a process of its own: pacing_worker.py ORCHESTRATORD_URL TOKENS_PER_S
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from time import monotonic_ns

import aiohttp
from aiohttp import web
from peers import loop

from llorch import PROTOCOL
from llorch.wire import events, execute, sse
from llorch.wire.announce import HEARTBEAT_S, Announcement

SLOTS = 4096
CONTEXT = 1 << 20
RATE = web.AppKey("rate", float)
CANCELLED = web.AppKey("cancelled", set[str])


async def run(request: web.Request) -> web.StreamResponse:
    """`POST /execute`: evenly paced, from a random moment on, so that the streams are out of step."""
    job = execute.parse_execute(await request.json())
    response = web.StreamResponse(headers=sse.HEADERS)
    await response.prepare(request)
    await response.write(sse.encode(events.started(job.job_id, "demo", "2026-01-01T00:00:00Z")))
    running, period_s = asyncio.get_running_loop(), 1 / request.app[RATE]
    due = running.time() + random.random() * period_s
    reason, count = events.StopReason.MAX_TOKENS, 0
    for count in range(1, (job.max_tokens or 256) + 1):
        if job.job_id in request.app[CANCELLED]:
            reason, count = events.StopReason.CANCELLED, count - 1
            break
        await asyncio.sleep(due - running.time())
        due += period_s
        await response.write(sse.encode(events.token(str(monotonic_ns()), count - 1, [count])))
    end = events.end(reason, tokens_out=count, decode_time_ms=1, prompt_tokens=1, ttft_ms=1, seed=1)
    await response.write(sse.encode(end))
    await response.write_eof()
    return response


async def cancel(request: web.Request) -> web.Response:
    """`POST /cancel`: the stream ends with its next token."""
    request.app[CANCELLED].add(execute.parse_cancel(await request.json()))
    return web.json_response({})


async def announce(orchestratord: str, url: str) -> None:
    """Once, then heartbeats for ever."""
    worker_id = "worker-pacing"
    announcement = Announcement(worker_id, url, "demo", "cpu", SLOTS, CONTEXT, 0, PROTOCOL, "0", {})
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{orchestratord}/v2/workers/ready", json=announcement.to_body()) as answer:
            answer.raise_for_status()
        print(json.dumps({"url": url}), flush=True)
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            where = f"{orchestratord}/v2/workers/{worker_id}/heartbeat"
            async with session.post(where, json={}) as answer:
                answer.raise_for_status()


async def serve(orchestratord: str, tokens_per_s: float) -> None:
    """Until stdin ends."""
    app = web.Application()
    app[RATE] = tokens_per_s
    app[CANCELLED] = set()
    app.add_routes([web.post("/execute", run), web.post("/cancel", cancel)])
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    async with asyncio.TaskGroup() as group:
        beats = group.create_task(announce(orchestratord, f"http://{host}:{port}"))
        await asyncio.to_thread(sys.stdin.read)
        beats.cancel()
    await runner.cleanup()


if __name__ == "__main__":
    loop.run(serve(sys.argv[1], float(sys.argv[2])))
