"""`llorch demo`: the whole system on this machine, in one minute, told to somebody who sees it for the first time.

Everything shown is real: daemons, HTTP, tokens, a SIGKILL. What must hold is checked, and decides the exit code.
"""

from __future__ import annotations

import argparse
import textwrap
import time
from dataclasses import dataclass, field
from typing import Any

from llorch.base.errors import HostError, LlorchError
from llorch.client.events import End, ErrorEvent, Started, Token
from llorch.client.request import InferenceRequest, Priority
from llorch.client.sync import Client, JobHandle
from llorch.host import interrupts, runtime
from llorch.remote import terminal
from llorch.remote.demo_cluster import Cluster

PROMPT = "Once upon a time"
BATCH_PROMPTS = ("One day", "In a small house", "Long ago", "There was a little", "Every morning", "Once upon a time")
STORY_TOKENS_MAX = 400
BATCH_TOKENS_MAX = 120
KILL_AT_PIECE = 6
TRIES_MAX = 5


def demo_arguments(parser: argparse.ArgumentParser) -> None:
    """`llorch demo` has no options of its own."""
    parser.epilog = "needs no network and no download; leaves nothing behind but the unpacked runtime in the cache"


@dataclass
class Results:
    """What the demo found out; it succeeds when every part of it did."""

    tokens: int = 0
    ttft_ms: float | None = None
    failover: str = "not reached"
    cancel: str = "not reached"
    batch_completed: int = 0
    speeds: list[float] = field(default_factory=list)

    def count(self, end: End) -> None:
        """Add a finished job."""
        self.tokens += end.tokens_out
        if end.decode_time_ms:
            self.speeds.append(end.tokens_out * 1000 / end.decode_time_ms)


def demo(arguments: argparse.Namespace) -> int:
    """Run it; 0 when everything that was promised happened."""
    began = time.monotonic()
    runtime.end_with_launcher()
    results = Results()
    cluster = Cluster()
    failure: LlorchError | None = None
    with interrupts.as_keyboard_interrupt():
        try:
            with cluster:
                _show(cluster, results)
                _say("Now everything is stopped again: the orchestrator, the workers, and the temporary home.")
        except LlorchError as error:
            failure = error
    return _finish(results, cluster.leftover_count or 0, time.monotonic() - began, failure)


def _show(cluster: Cluster, results: Results) -> None:
    _say(
        "This is llorch: one file that turns machines into a cluster for language models. Here the cluster is this "
        "machine alone: one orchestrator, which decides, and two workers, which compute. Each worker loads a tiny "
        "model that comes inside the file and can tell small stories. Starting them takes a moment; the first time "
        "on a machine some seconds more, because the file unpacks what it carries."
    )
    began = time.monotonic()
    cluster.start_orchestrator()
    cluster.start_workers(["worker-one", "worker-two"])
    _say(f"All three run (after {time.monotonic() - began:.1f} s). The orchestrator listens at {cluster.url}.")
    client = cluster.client
    batch = [client.enqueue(_request(prompt, BATCH_TOKENS_MAX, Priority.BATCH)) for prompt in BATCH_PROMPTS]
    _say(
        f"{len(batch)} batch jobs are queued; nobody waits for them. An interactive job goes before them. Its story "
        "comes word by word:"
    )
    story = _stream_story(client, results)
    _cancel_one(client, results)
    _fail_over(cluster, story, results)
    _finish_batch(batch, results)


def _request(prompt: str, max_tokens: int, priority: Priority = Priority.INTERACTIVE) -> InferenceRequest:
    """Greedy, so that the same prompt always gives the same story."""
    return InferenceRequest(prompt=prompt, model="demo", max_tokens=max_tokens, temperature=0.0, priority=priority)


def _stream_story(client: Client, results: Results) -> str:
    """Tell one story live; its text, for the comparison to come."""
    began = time.monotonic()
    text = ""
    terminal.write(f"\n{PROMPT}")
    with client.stream(_request(PROMPT, STORY_TOKENS_MAX)) as events:
        for event in events:
            if isinstance(event, Token):
                if results.ttft_ms is None:
                    results.ttft_ms = (time.monotonic() - began) * 1000
                text += event.t
                terminal.write(event.t)
            elif isinstance(event, End):
                results.count(event)
            elif isinstance(event, ErrorEvent):
                raise event.to_error()
    terminal.write("\n\n")
    return text


def _cancel_one(client: Client, results: Results) -> None:
    """Cancel a job after its first words; the stream must end with CANCELLED, and no word may follow."""
    for _ in range(TRIES_MAX):
        asked_at: int | None = None
        pieces = 0
        with client.stream(_request(PROMPT, STORY_TOKENS_MAX)) as events:
            for event in events:
                if isinstance(event, Token):
                    pieces += 1
                    if asked_at is None:
                        asked_at = pieces
                        client.cancel(events.job_id)
                elif isinstance(event, End):
                    results.count(event)
                    results.cancel = "ok" if event.stop_reason == "CANCELLED" else "too late"
                elif isinstance(event, ErrorEvent):
                    raise event.to_error()
        if results.cancel == "ok":
            _say(f"Another job was cancelled at its first piece of text; {pieces - 1} more came, then it was over.")
            return
    _say("Another job should have been cancelled, but it was always faster than the request to cancel it.")


def _fail_over(cluster: Cluster, expected: str, results: Results) -> None:
    """Kill the worker that tells the story; the same stream must go on, word for word as undisturbed."""
    _say(
        "Now the hard part. The same story is told again, and in the middle of it the worker that tells it is killed "
        "(SIGKILL: no goodbye). The orchestrator sees it and lets the other worker go on at the very next word:"
    )
    spare = iter(f"worker-spare-{n}" for n in range(1, TRIES_MAX))
    for attempt in range(TRIES_MAX):
        text, job = _stream_and_kill(cluster, results)
        if text != expected:
            results.failover = "the text is not the same"
            return
        if int(job["attempts"]) > 1:
            results.failover = "ok"
            _say("One unbroken text, equal to the undisturbed one to the last letter. The client never noticed.")
            return
        results.failover = "the story was over before the kill"
        if attempt + 1 < TRIES_MAX:
            _say("That worker had finished before the signal arrived; once more, with a fresh second worker.")
            cluster.start_workers([next(spare)])


def _stream_and_kill(cluster: Cluster, results: Results) -> tuple[str, dict[str, Any]]:
    """One story with a kill in it: its whole text, and the job's record."""
    text = ""
    worker_id: str | None = None
    terminal.write(f"\n{PROMPT}")
    with cluster.client.stream(_request(PROMPT, STORY_TOKENS_MAX)) as events:
        for event in events:
            if isinstance(event, Started):
                worker_id = event.worker_id
            elif isinstance(event, Token):
                text += event.t
                terminal.write(event.t)
                if event.i == KILL_AT_PIECE and worker_id is not None:
                    cluster.kill(worker_id)
                    terminal.write(f"\n   [{worker_id} is killed here]\n")
            elif isinstance(event, End):
                results.count(event)
            elif isinstance(event, ErrorEvent):
                raise event.to_error()
        job = cluster.client.job(events.job_id)
    terminal.write(f"\n   [finished by {terminal.shown(job.get('worker_id'))}]\n\n")
    return text, job


def _finish_batch(batch: list[JobHandle], results: Results) -> None:
    """The batch jobs must all complete, on whatever worker is left."""
    for handle in batch:
        for event in handle.events():
            if isinstance(event, End):
                results.count(event)
                results.batch_completed += 1
            elif isinstance(event, ErrorEvent):
                raise HostError(f"batch job {handle.job_id} failed: {event.message}")
    _say(f"Meanwhile all {results.batch_completed} batch jobs were completed, too.")


def _finish(results: Results, leftovers: int, took_s: float, failure: LlorchError | None) -> int:
    """The summary, the facts as key=value in the last lines, and the exit code."""
    if failure is not None:
        terminal.tell(f"the demo failed: {failure.message}")
    is_ok = (
        failure is None
        and results.failover == "ok"
        and results.cancel == "ok"
        and results.batch_completed == len(BATCH_PROMPTS)
        and leftovers == 0
    )
    if is_ok:
        fastest = f", up to {max(results.speeds):.0f} tokens/s in one stream" if results.speeds else ""
        _say(
            f"That was all, in {took_s:.1f} s{fastest}. Next: 'orchestratord' and 'llorch-pool worker spawn cpu "
            "--model demo' start the same parts for good; 'llorch jobs submit --prompt TEXT' uses them."
        )
    print(f"demo_tokens={results.tokens}")
    print(f"demo_ttft_ms={'none' if results.ttft_ms is None else round(results.ttft_ms)}")
    print(f"demo_failover={results.failover}")
    print(f"demo_cancel={results.cancel}")
    print(f"demo_leftover_processes={leftovers}", flush=True)
    return 0 if is_ok else 1


def _say(text: str) -> None:
    """A paragraph that fits the terminal."""
    print(textwrap.fill(text, max(20, min(terminal.columns() - 1, 100))), flush=True)
