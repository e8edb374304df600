"""What a bad policy script costs others: streams are watched for gaps while a script loops, grows, and is killed.

The worker computes nothing; orchestratord, the script's process, worker and clients are processes of their own. Prints
key=value: `cpu` first; README.md beside this file says what each key means. Exit code 1 when a gap is too long, a job
is lost, or nothing fell back to the built-in policy.
Run: ./install.sh bench policy [--streams N] [--seconds N]
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import psutil
from peers import machine
from peers.child import Child
from peers.cluster import Cluster, Daemon, pacing_worker
from peers.figures import Figures
from peers.progress import say

from llorch.base.errors import HostError, LlorchError

TOKENS_PER_S = 50.0
JOBS_PER_S = 4.0
GAP_MAX_MS = 100.0
KILL_EVERY_S = 0.5
FOLDER = Path(__file__).resolve().parents[2] / "build" / "work" / "bench"
# What a job asks the script to do stands in its max_tokens: 1 nothing bad, 2 loop, 3 grow.
SCRIPT = """
def admit(task, ctx):
    if task.max_tokens == 2:
        for a in range(1000000000):
            for b in range(1000000000):
                pass
    if task.max_tokens == 3:
        grown = "x"
        for n in range(40):
            grown = grown + grown
    return True

def choose_worker(task, workers):
    return workers[0]
"""
# Figure, max_tokens of the jobs, is the child killed meanwhile, reason that /metrics must name.
PHASES = (("good", 1, False, None), ("loop", 2, False, "deadline"), ("grow", 3, False, "death|error"))
KILLED = ("killed", 1, True, "death")


class Killer:
    """Kills the script's process again and again; a context manager."""

    def __init__(self, pid: int) -> None:
        self.count = 0
        self._parent = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(KILL_EVERY_S):
            for child in self._parent.children():
                try:
                    child.kill()
                    self.count += 1
                except psutil.NoSuchProcess:
                    continue


def deploy(ours: Daemon, phase: str) -> None:
    """A script of its own for each phase: nothing that another did is held against it. Raises HostError."""
    answer = ours.post("/v2/policy/deploy", {"source": f"# {phase}\n{SCRIPT}"})
    if answer.status != 200:
        raise HostError(f"the script was not taken: {answer.body.decode(errors='replace')[:300]}")


def fallbacks(ours: Daemon) -> dict[str, float]:
    """How often the built-in policy answered, by reason."""
    text = ours.get("/metrics").body.decode()
    found: dict[str, float] = {}
    for reason, count in re.findall(r'llorch_policy_fallback_total\{hook="\w+",reason="(\w+)"\} (\S+)', text):
        found[reason] = found.get(reason, 0.0) + float(count)
    return found


def run(figures: Figures, streams: int, seconds: float) -> bool:
    """All phases; did everything that must fall back do so, and show? Raises HostError."""
    good = True
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix="policy-") as home:
        cluster = Cluster(Path(home))
        try:
            ours = cluster.orchestratord()
            with pacing_worker(ours.url, TOKENS_PER_S), Child("watchers", []) as client:
                for phase, asked, is_killed, reason in (*PHASES, KILLED):
                    say(f"{phase}: {streams} streams, {seconds:g} s")
                    deploy(ours, phase)
                    before = fallbacks(ours)
                    found = _watch(client, ours, asked, streams, seconds, is_killed=is_killed)
                    told = ours.get("/health").json.get("policy")
                    more = {name: count - before.get(name, 0.0) for name, count in fallbacks(ours).items()}
                    for name, value in found.items():
                        figures.add(f"{name}_{phase}", value)
                    print(f"health_policy_{phase}={told}")
                    for name, count in sorted(more.items()):
                        if count:
                            print(f"fallback_{name}_{phase}={count:.0f}")
                    fell = reason is None or any(more.get(name, 0.0) for name in reason.split("|"))
                    good = good and fell and told == ("ok" if reason is None else "degraded") and not found["jobs_lost"]
        finally:
            cluster.close()
    return good


def _watch(client: Child, ours: Daemon, asked: int, streams: int, seconds: float, *, is_killed: bool) -> dict[str, Any]:
    task = {"model": "demo", "prompt": "Once"}
    order: dict[str, Any] = {
        "url": ours.url,
        "watched": {**task, "max_tokens": 100_000},
        "streams": streams,
        "submitted": {**task, "max_tokens": asked},
        "per_s": JOBS_PER_S,
        "seconds": seconds,
    }
    if not is_killed:
        return client.ask("watch", **order)
    with Killer(ours.pid) as killer:
        return {**client.ask("watch", **order), "kills": killer.count}


def show(figures: Figures) -> bool:
    """Print everything; is the longest gap beside bad scripts short enough?"""
    phases = [phase for phase, *_ in (*PHASES, KILLED)]
    for what in ("gap_max_ms", "gap_p99_ms", "job_max_ms", "jobs", "jobs_lost"):
        for phase in phases:
            figures.show(f"{what}_{phase}")
    figures.show("kills_killed")
    longest = max(figures.median(f"gap_max_ms_{phase}") for phase in phases[1:])
    figures.line("policy_gap_max_ms", longest)
    return longest <= GAP_MAX_MS


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each phase")
    args = parser.parse_args()
    figures, others = Figures(), machine.Others()
    print(f"cpu={machine.cpu_line(os.cpu_count() or 1)}", flush=True)
    try:
        with machine.alone(FOLDER):
            good = run(figures, args.streams, args.seconds)
    except LlorchError as error:
        print(f"llorch: {error.message}", file=sys.stderr)
        return 1
    good = show(figures) and good
    print(f"others_cpu_share={others.share():.3f}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
