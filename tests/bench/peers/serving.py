"""Measured over HTTP: our worker against llama-server, starting up, a long prompt beside streams, two workers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Self

from peers import streams
from peers.figures import Figures, percentile
from peers.llamacpp import LlamaCpp
from peers.streams import LLAMA_SERVER, OURS, Dialect, Prompts, Timeline

from llorch.base.errors import HostError

READY_S = 120.0
STOP_S = 15.0
PROMPT_TOKENS = 45
TEXT_TOKENS = 64
STREAMS = 8
LONG_PROMPT = 4096
LONG_CONTEXT = 5120
JOINED_STREAMS = 7
WINDOW_TOKENS = 48
SETTLED_TOKENS = 8
STREAM_TOKENS_MAX = 900
POLL_S = 0.01
ROOT = Path(__file__).resolve().parents[3]


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A running server process; `url` may not answer yet."""

    def __init__(self, argv: Sequence[str], port: int, dialect: Dialect, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.url = f"http://127.0.0.1:{port}"
        self.dialect = dialect
        self._log = folder / f"{Path(argv[0]).name}-{port}.log"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("LLORCH_", "XDG_"))}
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {**kept, "HOME": str(folder), "PYTHONPATH": path}
        self.started = perf_counter()
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(list(argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()

    def first_token_s(self, prompt: str) -> float:
        """From starting the process to its first token. Raises HostError with what it said last."""
        give_up_at = self.started + READY_S
        try:
            return asyncio.run(streams.first_token(self.url, self.dialect, prompt, give_up_at)) - self.started
        except HostError as problem:
            said = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["nothing"]
            raise HostError(f"{problem.message}; it said last: {said[-1]}") from None


class Serving:
    """What serves a model here, and the prompts for it."""

    def __init__(
        self, directory: Path, figures: Figures, folder: Path, say: Callable[[str], None], rounds: int
    ) -> None:
        self.directory = directory
        self.figures = figures
        self.prompts = Prompts(directory)
        self.say = say
        self.rounds = rounds
        self._folder = folder

    def ours(self, *flags: str) -> Server:
        port = free_port()
        argv = [sys.executable, "-m", "llorch", "worker", "--model", str(self.directory), "--port", str(port)]
        return Server([*argv, "--slots", "8", *flags], port, OURS, self._folder)

    def llama_server(self, peer: LlamaCpp, model: Path) -> Server:
        port = free_port()
        return Server(peer.server(model, port), port, LLAMA_SERVER, self._folder)

    def speed(self, *servers: Server, count: int) -> float:
        """Tokens a second of so many streams, spread over servers of one kind."""
        requests = [(servers[n % len(servers)].url, self.prompts.take(PROMPT_TOKENS)) for n in range(count)]
        return asyncio.run(streams.together(requests, servers[0].dialect, TEXT_TOKENS))


def throughput(serving: Serving, peer: LlamaCpp, model: Path) -> None:
    """http_b1_vs_llama_server, http_b8_vs_llama_server."""
    figures = serving.figures
    with serving.ours() as ours, serving.llama_server(peer, model) as theirs:
        for server in (ours, theirs):
            server.first_token_s(serving.prompts.take(PROMPT_TOKENS))
        for number in range(serving.rounds):
            serving.say(f"http, round {number + 1} of {serving.rounds}")
            sides = [("ours", ours), ("llama_server", theirs)]
            for count in (1, STREAMS):
                for name, server in sides if number % 2 == 0 else reversed(sides):
                    figures.add(f"http_b{count}_{name}", serving.speed(server, count=count))
    for count in (1, STREAMS):
        figures.ratio(f"http_b{count}_vs_llama_server", f"http_b{count}_ours", f"http_b{count}_llama_server")


def starting(serving: Serving, peer: LlamaCpp, model: Path) -> None:
    """start_to_first_token_vs_llama_server: seconds, ours over theirs. The first round only warms the page cache."""
    figures = serving.figures
    for number in range(serving.rounds + 1):
        serving.say(f"start, round {number} of {serving.rounds}")
        sides = [("ours", lambda: serving.ours()), ("llama_server", lambda: serving.llama_server(peer, model))]
        for name, start in sides if number % 2 == 0 else reversed(sides):
            with start() as server:
                seconds = server.first_token_s(serving.prompts.take(PROMPT_TOKENS))
            if number:
                figures.add(f"start_to_first_token_s_{name}", seconds)
    names = ("start_to_first_token_s_ours", "start_to_first_token_s_llama_server")
    figures.ratio("start_to_first_token_vs_llama_server", *names)


def two_workers(serving: Serving) -> None:
    """two_workers_aggregate_ratio: four streams at each of two workers over eight streams at one."""
    figures = serving.figures
    with ExitStack() as stack:
        workers = [stack.enter_context(serving.ours()) for _ in range(2)]
        for worker in workers:
            worker.first_token_s(serving.prompts.take(PROMPT_TOKENS))
        for number in range(serving.rounds):
            serving.say(f"workers, round {number + 1} of {serving.rounds}")
            sides = [("one_worker_b8", workers[:1]), ("two_workers_b4", workers)]
            for name, used in sides if number % 2 == 0 else reversed(sides):
                figures.add(name, serving.speed(*used, count=STREAMS))
    figures.ratio("two_workers_aggregate_ratio", "two_workers_b4", "one_worker_b8")


def joining(serving: Serving) -> None:
    """itl_p99_ratio and prefill_kept: a long prompt joins seven streams."""
    figures = serving.figures
    with serving.ours("--context", str(LONG_CONTEXT)) as worker:
        worker.first_token_s(serving.prompts.take(PROMPT_TOKENS))
        for number in range(serving.rounds):
            serving.say(f"joining, round {number + 1} of {serving.rounds}")
            try:
                asyncio.run(_join_once(serving, worker))
            except ExceptionGroup as problems:  # of the task group
                raise problems.exceptions[0] from None
    for name in ("itl_p99_ms_without", "itl_p99_ms_with", "prefill_alone", "prefill_beside"):
        figures.show(name)
    figures.ratio("itl_p99_ratio", "itl_p99_ms_with", "itl_p99_ms_without")
    figures.ratio("prefill_kept", "prefill_beside", "prefill_alone")


async def _join_once(serving: Serving, worker: Server) -> None:
    figures, prompts = serving.figures, serving.prompts
    async with streams.client() as session:

        async def long_prompt() -> float:
            prompt = prompts.take(LONG_PROMPT)
            timeline = await streams.stream(session, worker.url, worker.dialect, prompt, 1)
            return prompts.count(prompt) / timeline.first_s

        figures.add("prefill_alone", await long_prompt())
        timelines = [Timeline() for _ in range(JOINED_STREAMS)]
        async with asyncio.TaskGroup() as group:
            decoding = [
                group.create_task(
                    streams.stream(
                        session,
                        worker.url,
                        worker.dialect,
                        prompts.take(PROMPT_TOKENS),
                        STREAM_TOKENS_MAX,
                        timeline,
                    )
                )
                for timeline in timelines
            ]
            await _until_tokens(timelines, SETTLED_TOKENS)
            begin = perf_counter()
            await _until_tokens(timelines, SETTLED_TOKENS + WINDOW_TOKENS)
            joined = perf_counter()
            figures.add("prefill_beside", await long_prompt())
            end = perf_counter()
            if any(task.done() for task in decoding):
                raise HostError("a stream ended before the long prompt was computed")
            for task in decoding:
                task.cancel()
    for name, window in (("without", (begin, joined)), ("with", (joined, end))):
        gaps = [gap for timeline in timelines for gap in timeline.gaps(*window)]
        gaps = gaps or [window[1] - window[0]]  # nobody got a token in all that time
        figures.add(f"itl_p99_ms_{name}", percentile(gaps, 0.99) * 1000)


async def _until_tokens(timelines: list[Timeline], count: int) -> None:
    give_up_at = time.monotonic() + streams.STREAM_S
    while any(len(timeline.arrivals) < count for timeline in timelines):
        if time.monotonic() > give_up_at:
            raise HostError(f"the streams did not get to {count} tokens in time")
        await asyncio.sleep(POLL_S)
