"""How many durable 202s a second: `POST /v2/tasks` to a real orchestratord, beside a bare aiohttp handler and SQLite.

One client process posts to both servers with the same code; the sides take turns, round after round. Prints key=value:
`cpu` first; README.md beside this file says what each key means. Exit code 1 when accept_vs_bare_aiohttp_128 is low.
Run: ./install.sh bench accept [--rounds N] [--requests N]
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from peers import machine
from peers.child import FOLDERS, Child
from peers.cluster import Cluster
from peers.figures import Figures
from peers.progress import say

from llorch.base.errors import HostError, LlorchError

SUBMITTERS = (16, 128)
WARM_REQUESTS = 500
RATIO_MIN = 0.5
FOLDER = Path(__file__).resolve().parents[2] / "build" / "work" / "bench"
Measure = Callable[[int, int], dict[str, Any]]


@contextmanager
def bare_aiohttp() -> Iterator[tuple[str, psutil.Process]]:
    """The peer's URL and process."""
    path = os.pathsep.join(map(str, FOLDERS))
    program = Path(__file__).parent / "peers" / "bare_aiohttp.py"
    with subprocess.Popen(
        [sys.executable, str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise HostError("the bare aiohttp server did not start")
        yield json.loads(line)["url"], psutil.Process(process.pid)
        process.stdin.close()


def stored_bytes(state: Path) -> int:
    """What one job leaves in the store: bytes of its record, its prompt and its decisions, on average."""
    with sqlite3.connect(f"{(state / 'orchestratord.sqlite').as_uri()}?mode=ro", uri=True) as connection:
        (jobs,) = connection.execute("SELECT sum(length(record) + length(payload)) FROM job").fetchone()
        (decisions,) = connection.execute("SELECT sum(length(record)) FROM decision").fetchone()
        (count,) = connection.execute("SELECT count(*) FROM job").fetchone()
    return int((jobs + decisions) / count)


def over_http(client: Child, url: str, process: psutil.Process) -> Measure:
    """Posts by the client process; `server_cpu_us` is what a request cost the server."""

    def measure(submitters: int, requests: int) -> dict[str, Any]:
        before = process.cpu_times()
        found = client.ask("submit", url=url, submitters=submitters, requests=requests)
        after = process.cpu_times()
        spent_s = after.user + after.system - before.user - before.system
        return {**found, "server_cpu_us": spent_s / requests * 1e6}

    return measure


def run(figures: Figures, rounds: int, requests: int) -> None:
    """Every side in turn. Raises HostError."""
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix="accept-") as home:
        cluster = Cluster(Path(home))
        try:
            ours = cluster.orchestratord("--queue-capacity", "-1")
            with (
                bare_aiohttp() as (bare_url, bare),
                Child("submitters", []) as client,
                Child("group_commit", [str(Path(home) / "peer.sqlite")]) as disk,
            ):
                accept = over_http(client, ours.url, psutil.Process(ours.process.pid))
                warm = over_http(client, bare_url, bare)
                for measure in (accept, warm):
                    measure(SUBMITTERS[0], WARM_REQUESTS)
                size = stored_bytes(cluster.state)
                print(f"row_bytes={size}", flush=True)
                sides: list[tuple[str, Measure]] = [
                    ("accept", accept),
                    ("bare_aiohttp", warm),
                    ("sqlite_group_commit", lambda n, m: disk.ask("commit", submitters=n, requests=m, size=size)),
                ]
                for number in range(rounds):
                    say(f"round {number + 1} of {rounds}")
                    for submitters in SUBMITTERS:
                        for name, measure in sides if number % 2 == 0 else reversed(sides):
                            for what, value in measure(submitters, requests).items():
                                figures.add(f"{name}_{what}_{submitters}", value)
        finally:
            cluster.close()


def show(figures: Figures) -> bool:
    """Print everything; is the door quick enough?"""
    quick = True
    for submitters in SUBMITTERS:
        for name in ("accept", "bare_aiohttp", "sqlite_group_commit"):
            for what in ("per_s", "p50_ms", "p99_ms"):
                figures.show(f"{name}_{what}_{submitters}")
        for name in ("accept", "bare_aiohttp"):
            figures.show(f"{name}_server_cpu_us_{submitters}")
        figures.show(f"bare_aiohttp_cpu_us_{submitters}")
        above = f"accept_per_s_{submitters}"
        figures.ratio(f"accept_vs_sqlite_group_commit_{submitters}", above, f"sqlite_group_commit_per_s_{submitters}")
        found = figures.ratio(f"accept_vs_bare_aiohttp_{submitters}", above, f"bare_aiohttp_per_s_{submitters}")
        quick = submitters != SUBMITTERS[-1] or (found is not None and found >= RATIO_MIN)
    return quick


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=4000, help="a round and side")
    args = parser.parse_args()
    figures, others = Figures(), machine.Others()
    print(f"cpu={machine.cpu_line(os.cpu_count() or 1)}", flush=True)
    try:
        with machine.alone(FOLDER):
            run(figures, args.rounds, args.requests)
    except LlorchError as error:
        print(f"llorch: {error.message}", file=sys.stderr)
        return 1
    quick = show(figures)
    print(f"others_cpu_share={others.share():.3f}")
    return 0 if quick else 1


if __name__ == "__main__":
    sys.exit(main())
