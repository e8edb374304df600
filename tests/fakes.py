"""A fake worker: a real aiohttp server that speaks the worker protocol with a deterministic token function and
scripted faults. It runs in a thread of its own, so that blocking tests can talk to daemons that talk to it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

import aiohttp
from aiohttp import web

from llorch import PROTOCOL
from llorch.wire import events, execute, sse, strict_json
from llorch.wire.announce import HEARTBEAT_S, Announcement, Heartbeat
from llorch.wire.logprobs import Likely, TokenLogprob

T = TypeVar("T")
MODEL = "demo"


def token_text(prompt: str, position: int) -> str:
    """The deterministic token function: what comes at `position` after `prompt`."""
    digest = hashlib.sha256(f"{prompt}|{position}".encode()).digest()
    return f" w{digest[0]}é" if digest[1] % 5 == 0 else f" w{digest[0]}"


def token_logprobs(position: int, count: int | None) -> list[TokenLogprob]:
    """How the token at `position` was drawn, if that was asked for; with a figure in every notation JSON has."""
    if count is None:
        return []
    return [TokenLogprob(position, -1e-6, tuple(Likely(n, -float(n)) for n in range(count)))]


def expected_text(prompt: str, count: int) -> str:
    """What an undisturbed job prints."""
    return "".join(token_text(prompt, position) for position in range(count))


class Fault(Enum):
    """What goes wrong with one execution."""

    DIE = "die"  # the connection breaks off
    STALL = "stall"  # nothing comes any more
    HANG = "hang"  # the request is taken and never answered
    BUSY = "busy"  # 503 with Retry-After
    REJECT = "reject"  # 400
    GAP = "gap"  # one index is left out
    REPEAT = "repeat"  # every frame comes twice
    ERROR = "error"  # an error event
    SILENT_END = "silent end"  # the stream closes without a terminal event
    GARBAGE = "garbage"  # bytes that are not a stream of ours


@dataclass
class Trouble:
    """`fault` strikes an execution after it has sent `after` frames."""

    fault: Fault
    after: int = 0


@dataclass
class Execution:
    """What came in on `/execute`, and how far it got."""

    body: dict[str, Any]
    headers: dict[str, str]
    frames: int = 0
    ended: str = ""


@dataclass
class FakeWorker:
    """Start it, script `troubles` (one per execution, in order), look at `executions`."""

    worker_id: str = "fake-1"
    slots: int = 4
    model: str = MODEL
    context_length: int = 2048
    token_delay_s: float = 0.0
    hold_s: float = 0.0
    token: str | None = None
    protocol: int = PROTOCOL
    prefixes: tuple[str, ...] = ()  # named in its heartbeats
    troubles: list[Trouble] = field(default_factory=list)
    executions: list[Execution] = field(default_factory=list)
    cancels: list[str] = field(default_factory=list)
    announced: list[int] = field(default_factory=list)
    heartbeats: int = 0  # that were taken
    calls: list[tuple[str, str]] = field(default_factory=list)  # path and correlation id of /health and /drain
    url: str = ""
    _live: dict[str, asyncio.Event] = field(default_factory=dict)
    _beats: asyncio.Task[None] | None = None

    # Life

    def start(self, orchestrator: str | None = None, port: int = 0) -> FakeWorker:
        """Listen; announce to `orchestrator` and send heartbeats when one is given."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._run(self._listen(port))
        if orchestrator:
            self._run(self._begin(orchestrator))
        return self

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _listen(self, port: int) -> None:
        app = web.Application()
        app.add_routes(
            [
                web.post("/execute", self._execute),
                web.post("/cancel", self._cancel),
                web.post("/tokenize", self._tokenize),
                web.post("/drain", self._ok),
                web.get("/health", self._health),
            ]
        )
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.url = f"http://127.0.0.1:{site.port}"

    async def _begin(self, orchestrator: str) -> None:
        self._beats = asyncio.get_running_loop().create_task(self._announce(orchestrator))

    def silence(self) -> None:
        """No more heartbeats; what is running goes on."""
        self._run(self._fall_silent())

    async def _fall_silent(self) -> None:
        if self._beats is not None:
            self._beats.cancel()
            await asyncio.wait([self._beats])

    def die(self) -> None:
        """As kill -9 looks from outside: every connection breaks, nothing listens, no heartbeat."""
        self._run(self._die())

    async def _die(self) -> None:
        await self._fall_silent()
        server = self._runner.server
        for site in list(self._runner.sites):
            await site.stop()
        for connection in server.connections if server is not None else []:
            if connection.transport is not None:
                connection.transport.abort()
        await self._runner.cleanup()

    def stop(self) -> None:
        """Reap the thread."""
        self._run(self._die())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    # The orchestrator's side of the protocol

    def announcement(self) -> Announcement:
        """What it says of itself."""
        return Announcement(
            self.worker_id, self.url, self.model, "cpu", self.slots, self.context_length, 1, self.protocol, "0.1.0", {}
        )

    async def _announce(self, orchestrator: str) -> None:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        async with aiohttp.ClientSession(headers=headers) as session:
            known = False
            while True:
                try:
                    if not known:
                        body = self.announcement().to_body()
                        async with session.post(f"{orchestrator}/v2/workers/ready", json=body) as answer:
                            self.announced.append(answer.status)
                            known = answer.status == 200
                    else:
                        live = tuple(self._live)
                        beat = Heartbeat(len(live), self.slots, 100.0, "ready", 1, live, self.prefixes).to_body()
                        url = f"{orchestrator}/v2/workers/{self.worker_id}/heartbeat"
                        async with session.post(url, json=beat) as answer:
                            known = answer.status == 200
                            self.heartbeats += known
                except aiohttp.ClientError:
                    known = False
                await asyncio.sleep(HEARTBEAT_S / 2 if known else 0.05)

    # Routes

    def _note(self, request: web.Request) -> None:
        self.calls.append((request.path, request.headers.get(execute.CORRELATION_HEADER, "")))

    async def _ok(self, request: web.Request) -> web.Response:
        self._note(request)
        return web.json_response({}, status=202)

    async def _health(self, request: web.Request) -> web.Response:
        self._note(request)
        return web.json_response({"status": "healthy", **self.announcement().to_body(), "slots_busy": len(self._live)})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = strict_json.parse_object(await request.read())
        count = len(body.get("prompt") or json.dumps(body.get("messages")))
        return web.json_response({"count": count, "ids": []})

    async def _cancel(self, request: web.Request) -> web.Response:
        job_id = execute.parse_cancel(strict_json.parse_object(await request.read()))
        self.cancels.append(job_id)
        wanted = self._live.get(job_id)
        if wanted is not None:
            wanted.set()
        return web.json_response({}, status=404 if wanted is None else 202)

    async def _execute(self, request: web.Request) -> web.StreamResponse:
        body = strict_json.parse_object(await request.read())
        job = execute.parse_execute(body)
        run = Execution(body, {name.lower(): value for name, value in request.headers.items()})
        self.executions.append(run)
        trouble = self.troubles.pop(0) if self.troubles else None
        if (trouble is not None and trouble.fault in (Fault.BUSY, Fault.REJECT)) or job.job_id in self._live:
            return _refusal(trouble.fault if trouble else Fault.BUSY)
        if trouble is not None and trouble.fault is Fault.HANG:
            await asyncio.sleep(3600)
        cancelled = self._live[job.job_id] = asyncio.Event()
        response = web.StreamResponse(headers=sse.HEADERS)
        try:
            await response.prepare(request)
            await response.write(sse.encode(events.started(job.job_id, self.model, "2026-01-01T00:00:00.000Z")))
            await self._generate(request, response, job, run, trouble, cancelled)
        finally:
            del self._live[job.job_id]
            run.ended = run.ended or "dropped"
        return response

    async def _generate(
        self,
        request: web.Request,
        response: web.StreamResponse,
        job: execute.ExecuteRequest,
        run: Execution,
        trouble: Trouble | None,
        cancelled: asyncio.Event,
    ) -> None:
        prompt = job.prompt or json.dumps([message.to_body() for message in job.messages])
        position, index, wanted = len(job.resume.token_ids), job.resume.next_i, job.max_tokens or 16
        await self._pause(self.hold_s, cancelled)
        while position < wanted and not cancelled.is_set():
            if trouble is not None and run.frames >= trouble.after:
                if await self._strike(request, response, trouble.fault, index):
                    return
                index += trouble.fault is Fault.GAP
            logprobs = token_logprobs(position, job.sampling.logprobs)
            frame = sse.encode(events.token(token_text(prompt, position), index, [position], logprobs))
            await response.write(frame * 2 if trouble is not None and trouble.fault is Fault.REPEAT else frame)
            position, index, run.frames = position + 1, index + 1, run.frames + 1
            if run.frames % 4 == 0:
                await response.write(sse.encode(events.metrics(position, 1, 100.0, 1)))
            await self._pause(self.token_delay_s, cancelled)
        reason = events.StopReason.CANCELLED if cancelled.is_set() else events.StopReason.MAX_TOKENS
        run.ended = reason.value
        seed = job.sampling.seed or 0
        end = events.end(reason, tokens_out=position, decode_time_ms=5, prompt_tokens=len(prompt), ttft_ms=1, seed=seed)
        await response.write(sse.encode(end))
        await response.write_eof()

    async def _pause(self, seconds: float, cancelled: asyncio.Event) -> None:
        if seconds:
            try:
                await asyncio.wait_for(cancelled.wait(), seconds)
            except TimeoutError:
                return

    async def _strike(self, request: web.Request, response: web.StreamResponse, fault: Fault, index: int) -> bool:
        """Let the fault happen; True when the execution is over."""
        if fault is Fault.DIE:
            assert request.transport is not None
            request.transport.abort()
        elif fault is Fault.STALL:
            await asyncio.sleep(3600)
        elif fault is Fault.ERROR:
            await response.write(sse.encode(events.error("INFERENCE_FAILED", "the model broke", retriable=True)))
        elif fault is Fault.GARBAGE:
            await response.write(b'data: {"type":"token","t":"x","i":' + str(index + 7).encode() + b"}\n\n\x00\xff")
        elif fault is not Fault.SILENT_END:
            return False
        return True


def _refusal(fault: Fault) -> web.Response:
    if fault is Fault.REJECT:
        error = {"code": "CONTEXT_LENGTH_EXCEEDED", "message": "the prompt is too long", "retriable": False}
        return web.json_response({"error": error}, status=400)
    error = {"code": "WORKER_UNAVAILABLE", "message": "no slot", "retriable": True}
    return web.json_response({"error": error}, status=503, headers={"Retry-After": "0"})
