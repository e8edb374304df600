"""What passing a token on costs: paced streams through orchestratord, and the same straight from the worker, in turn.

The worker computes nothing; worker, orchestratord and clients are three processes. Prints key=value: `cpu` first;
README.md beside this file says what each key means. Exit code 1 when a token costs too much CPU time.
Run: ./install.sh bench relay [--rounds N] [--seconds N] [--streams N ...]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peers import machine
from peers.child import FOLDERS, Child
from peers.cluster import Cluster
from peers.figures import Figures
from peers.progress import say

from llorch.base.errors import HostError, LlorchError

STREAMS = (100, 400)
TOKENS_PER_S = 20.0
CPU_US_MAX = 50.0
TOKENS_MAX = 100_000
FOLDER = Path(__file__).resolve().parents[2] / "build" / "work" / "bench"


@contextmanager
def pacing_worker(orchestratord: str) -> Iterator[str]:
    """The worker's URL."""
    program = Path(__file__).parent / "peers" / "pacing_worker.py"
    with subprocess.Popen(
        [sys.executable, str(program), orchestratord, str(TOKENS_PER_S)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, FOLDERS))},
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise HostError("the pacing worker did not start")
        yield json.loads(line)["url"]
        process.stdin.close()


def run(figures: Figures, streams: list[int], rounds: int, seconds: float) -> None:
    """Both ways in turn. Raises HostError."""
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix="relay-") as home:
        cluster = Cluster(Path(home))
        try:
            ours = cluster.orchestratord("--queue-capacity", "-1")
            with pacing_worker(ours.url) as worker, Child("readers", []) as client:
                task = {"model": "demo", "prompt": "Once", "max_tokens": TOKENS_MAX, "stream": True}
                direct = {"job_id": "job-NUMBER", "prompt": "Once", "max_tokens": TOKENS_MAX}
                ways: list[tuple[str, dict[str, Any]]] = [
                    ("relay", {"url": ours.url, "path": "/v2/tasks", "body": json.dumps(task)}),
                    ("direct", {"url": worker, "path": "/execute", "body": json.dumps(direct)}),
                ]
                for number in range(rounds):
                    for count in streams:
                        say(f"round {number + 1} of {rounds}, {count} streams")
                        for name, way in ways if number % 2 == 0 else reversed(ways):
                            found = client.ask("read", **way, streams=count, seconds=seconds, pid=ours.process.pid)
                            for what, value in found.items():
                                figures.add(f"{name}_{what}_{count}", value)
        finally:
            cluster.close()


def show(figures: Figures, streams: list[int]) -> bool:
    """Print everything; is a token cheap enough where there is room for all of them?"""
    cheap = True
    for count in streams:
        for name in ("relay", "direct"):
            for what in ("tokens_per_s", "p50_ms", "p99_ms"):
                figures.show(f"{name}_{what}_{count}")
        for what in ("p50", "p99"):
            added = figures.median(f"relay_{what}_ms_{count}") - figures.median(f"direct_{what}_ms_{count}")
            figures.line(f"relay_added_{what}_ms_{count}", added)
        figures.show(f"relay_cpu_us_{count}")
        cpu_us = figures.median(f"relay_cpu_us_{count}")
        figures.line("relay_cpu_us_per_token" if count == streams[0] else f"relay_cpu_us_per_token_{count}", cpu_us)
        cheap = cheap and cpu_us <= CPU_US_MAX
    return cheap


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="measured in each round")
    parser.add_argument("--streams", type=int, nargs="+", default=list(STREAMS))
    args = parser.parse_args()
    figures, others = Figures(), machine.Others()
    print(f"cpu={machine.cpu_line(os.cpu_count() or 1)}", flush=True)
    try:
        with machine.alone(FOLDER):
            run(figures, args.streams, args.rounds, args.seconds)
    except LlorchError as error:
        print(f"llorch: {error.message}", file=sys.stderr)
        return 1
    cheap = show(figures, args.streams)
    print(f"others_cpu_share={others.share():.3f}")
    return 0 if cheap else 1


if __name__ == "__main__":
    sys.exit(main())
