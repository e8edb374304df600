"""The built-in smoke test: spawn the embedded model, ask it something, stop it. Needs no network and no checkout."""

from __future__ import annotations

import argparse
import os
import time

from llorch.base import callback, ids
from llorch.base.errors import HostError
from llorch.base.home import find_home
from llorch.client.events import End, ErrorEvent, Token
from llorch.client.worker import WorkerClient
from llorch.pool import records, spawn, workers
from llorch.pool.handover import Handover
from llorch.pool.output import print_json
from llorch.pool.terminal import Terminal
from llorch.wire.execute import parse_execute

MODEL = "demo"
PROMPT = "Once upon a time"
TOKENS_MAX = 16


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """JSON: {ok, worker_id, ready_s, tokens, ttft_s}. Raises HostError for what does not work; nothing is left."""
    home = find_home(os.environ)
    worker_id = ids.new_worker_id("cpu")
    began = time.monotonic()
    try:
        spawned = _spawn(worker_id, terminal)
        ready_s = time.monotonic() - began
        tokens, ttft_s = _infer(spawned)
    finally:
        left = [record for record in records.load_all(home) if record.worker_id == worker_id]
        workers.end_all(home, left, workers.GRACE_S)
    if arguments.json:
        body = {"ok": True, "worker_id": worker_id, "ready_s": round(ready_s, 3), "tokens": tokens}
        print_json({**body, "ttft_s": round(ttft_s, 4)})
    else:
        print(f"smoke test ok: ready in {ready_s:.1f} s, {tokens} tokens, first after {ttft_s * 1000:.0f} ms, stopped")
    return 0


def _spawn(worker_id: str, terminal: Terminal) -> records.WorkerRecord:
    parser = argparse.ArgumentParser()
    spawn.spawn_arguments(parser)
    flags = parser.parse_args(["cpu", "--model", MODEL, "--worker-id", worker_id, "--slots", "1"])
    # It announces itself where nobody listens: no orchestrator should send it work.
    return spawn.start(flags, Handover(callback_url=callback.NOBODY), terminal)


def _infer(spawned: records.WorkerRecord) -> tuple[int, float]:
    """Tokens of an answer, and seconds to the first. Raises HostError when there is none."""
    body = {"job_id": ids.new_job_id(), "prompt": PROMPT, "max_tokens": TOKENS_MAX, "temperature": 0}
    began = time.monotonic()
    first_s: float | None = None
    with WorkerClient(spawned.url).execute(parse_execute(body)) as events:
        for event in events:
            if isinstance(event, Token) and first_s is None:
                first_s = time.monotonic() - began
            if isinstance(event, ErrorEvent):
                raise event.to_error()
            if isinstance(event, End) and first_s is not None and event.tokens_out:
                return event.tokens_out, first_s
    raise HostError("the worker answered without a single token")
