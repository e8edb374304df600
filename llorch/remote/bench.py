"""`llorch bench --worker A --worker B`: the same prompts, in turns, to several workers; medians side by side.

One stream at a time and greedy. Every round has a beginning of its own, so that no worker answers from its prefix
cache; the first round warms up and is not counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llorch.base import ids, worker_token
from llorch.base.errors import LlorchError, UsageError
from llorch.client.events import End, ErrorEvent, Token
from llorch.client.worker import WorkerClient
from llorch.remote import terminal
from llorch.wire.execute import parse_execute

PROMPT = "Tell me a short story about a lighthouse keeper who finds a message in a bottle after a storm."
ROUNDS, TOKENS_MAX = 5, 128


def bench_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch bench`."""
    parser.add_argument("--worker", action="append", required=True, metavar="HOST:PORT", help="once for each worker")
    parser.add_argument("--prompt", default=PROMPT, metavar="TEXT", help="what each round asks, behind its number")
    parser.add_argument("--max-tokens", type=int, default=TOKENS_MAX, metavar="N", help=f"per answer ({TOKENS_MAX})")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, metavar="N", help=f"that count ({ROUNDS}), and one before"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.epilog = "Workers that serve jobs meanwhile are slower: stop those first, or let them drain."


@dataclass(frozen=True, slots=True)
class Run:
    """One answer: milliseconds to its first text, and tokens a second after that by the worker's own clock."""

    ttft_ms: float
    tokens_per_s: float | None
    prompt_tokens: int | None
    tokens_out: int
    text: str


@dataclass(slots=True)
class Subject:
    """One worker: what it says of itself, and its counted runs; `failure` ends its part."""

    name: str
    client: WorkerClient
    health: dict[str, Any] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    failure: str | None = None

    def body(self) -> dict[str, Any]:
        """Its row as JSON; figures are medians, null without one."""
        speeds = [run.tokens_per_s for run in self.runs if run.tokens_per_s is not None]
        return {
            "worker": self.name,
            **{key: self.health.get(key) for key in ("worker_id", "model", "backend", "version")},
            "rounds": len(self.runs),
            "ttft_ms": round(statistics.median(run.ttft_ms for run in self.runs), 1) if self.runs else None,
            "tokens_per_s": round(statistics.median(speeds), 1) if speeds else None,
            "prompt_tokens": self.runs[-1].prompt_tokens if self.runs else None,
            "tokens_out": sum(run.tokens_out for run in self.runs),
            "error": self.failure,
        }


def bench(arguments: argparse.Namespace) -> int:
    """JSON: {workers: [{worker, model, backend, ttft_ms, tokens_per_s, …}], same_text}; 1 when a worker failed."""
    if arguments.rounds < 1 or arguments.max_tokens < 1:
        raise UsageError("--rounds and --max-tokens must be at least 1")
    token = worker_token.find(os.environ)
    subjects = [Subject(name, WorkerClient(name, token=token)) for name in dict.fromkeys(arguments.worker)]
    for subject in subjects:
        subject.health = subject.client.health()
        if slots := subject.health.get("slots_busy"):
            terminal.tell(f"{subject.name} is busy ({slots} slots): its figures will be worse than it is")
    for number in range(arguments.rounds + 1):
        for subject in subjects:
            _take_turn(subject, f"{number}. {arguments.prompt}", arguments.max_tokens, counts=number > 0)
    _print(subjects, arguments)
    return int(any(subject.failure is not None for subject in subjects))


def _take_turn(subject: Subject, prompt: str, max_tokens: int, *, counts: bool) -> None:
    if subject.failure is not None:
        return
    try:
        run = _ask(subject.client, prompt, max_tokens)
    except LlorchError as error:
        subject.failure = error.message
        terminal.tell(f"{subject.name}: {error.message}")
        return
    if counts:
        subject.runs.append(run)


def _ask(client: WorkerClient, prompt: str, max_tokens: int) -> Run:
    """Raises LlorchError."""
    body = {"job_id": ids.new_job_id(), "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
    began = time.monotonic()
    first: float | None = None
    pieces: list[str] = []
    with client.execute(parse_execute(body)) as events:
        for event in events:
            if isinstance(event, Token):
                first = first or time.monotonic()
                pieces.append(event.t)
            elif isinstance(event, ErrorEvent):
                raise event.to_error()
            elif isinstance(event, End):
                speed = event.tokens_out * 1000 / event.decode_time_ms if event.decode_time_ms else None
                ttft_ms = 1000 * ((first or time.monotonic()) - began)
                return Run(ttft_ms, speed, event.prompt_tokens, event.tokens_out, "".join(pieces))
    raise LlorchError("the stream ended without saying how")


def _print(subjects: Sequence[Subject], arguments: argparse.Namespace) -> None:
    rows = [subject.body() for subject in subjects]
    same = _same_text(subjects)
    if arguments.json:
        terminal.write_json({"max_tokens": arguments.max_tokens, "workers": rows, "same_text": same})
        return
    keys = ("worker", "model", "backend", "prompt_tokens", "ttft_ms", "tokens_per_s")
    heads = ("WORKER", "MODEL", "BACKEND", "PROMPT TOKENS", "TTFT ms", "TOK/S")
    terminal.write_table(heads, [[terminal.shown(row[key]) for key in keys] for row in rows])
    texts = {True: "; texts are the same", False: "; texts differ", None: ""}[same]
    terminal.tell(
        f"medians of {arguments.rounds} rounds in turns, one stream at a time, greedy, at most {arguments.max_tokens} "
        f"tokens, one round before to warm up{texts}"
    )


def _same_text(subjects: Sequence[Subject]) -> bool | None:
    """Did all workers say the same in every round (another backend may round another way)? None: nothing to compare."""
    whole = [subject for subject in subjects if subject.failure is None]
    if len(whole) < 2:
        return None
    return len({tuple(run.text for run in subject.runs) for subject in whole}) == 1
