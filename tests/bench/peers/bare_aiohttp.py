"""The peer of the door: aiohttp with one handler that parses the same body, answers alike and keeps nothing.

The aiohttp that orchestratord uses, on the same event loop, without an access log. Run as a process of its own: it
prints its URL, and ends with its stdin.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid

from aiohttp import web
from peers import loop


async def accept(request: web.Request) -> web.Response:
    """`POST /v2/tasks`."""
    body = json.loads(await request.read())
    job_id = f"job-{uuid.uuid4()}"
    answer = {
        "job_id": job_id,
        "status": "queued",
        "queue_position": len(body),
        "eta_ms": None,
        "events_url": f"/v2/tasks/{job_id}/events",
    }
    return web.json_response(answer, status=202)


async def serve() -> None:
    """Until stdin ends."""
    app = web.Application()
    app.add_routes([web.post("/v2/tasks", accept)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    print(json.dumps({"url": f"http://{host}:{port}"}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    loop.run(serve())
