"""kill -9 of workers and of orchestratord while clients stream: does anybody lose, repeat, miss or change a token?

Real processes on the demo model, two workers; whatever is killed is started again at once. Every text is compared with
that of an undisturbed run before. Prints key=value: `cpu` first; README.md beside this file says what each key means.
Exit code 1 when something was lost, came twice, is missing, or diverged with the native kernels.
Run: ./install.sh bench failover [--kills N] [--clients N] [--only native] [--seed N]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from time import monotonic
from typing import Any

import aiohttp
from peers import machine
from peers.cluster import Cluster, Daemon, free_port, workers_ready
from peers.progress import say
from peers.resuming import Client, Job, Text, longest_pause_s

from llorch.base.errors import HostError, LlorchError

FOLDER = Path(__file__).resolve().parents[2] / "build" / "work" / "bench"
EOS_IDS = (0, 2)
NEVER = -100.0
SETTLE_S = 40.0
POLL_S = 0.02
TOKENS_AFTER = 5
WORKERS = ("worker-a", "worker-b")


@dataclass(frozen=True, slots=True)
class Plan:
    """One variant: what the workers compute with, and how much is done. `budget_s` bounds all kills together."""

    kernels: str
    dtype: str
    kills: int
    clients: int
    texts: int
    tokens: int
    budget_s: float


def bodies(plan: Plan, seed: int) -> list[dict[str, Any]]:
    """Half greedy, half sampled with a seed; none of them ends by itself."""
    chance = Random(seed)
    names = ("Tom", "Lily", "the little fox", "a brave mouse", "Anna and Ben", "the old bear")
    made = []
    for number in range(plan.texts):
        sampling: dict[str, Any] = {"temperature": 0.0, "repetition_penalty": 1.1}
        if number % 2:
            sampling = {"temperature": 0.9, "top_p": 0.95, "seed": chance.getrandbits(48)}
        prompt = f"Once upon a time, on day {number}, {chance.choice(names)} went to the"
        bias = {str(token): NEVER for token in EOS_IDS}
        limit = plan.tokens - number % 7
        made.append({"model": "demo", "prompt": prompt, "max_tokens": limit, "logit_bias": bias, **sampling})
    return made


@dataclass(slots=True)
class Seen:
    """What came of all kills of one variant."""

    kills: int = 0
    jobs: list[Job] = field(default_factory=list)
    lost: int = 0
    duplicated: int = 0
    gaps: int = 0
    diverged: int = 0
    continued: int = 0
    recovery_s: dict[str, list[float]] = field(default_factory=lambda: {"worker": [], "orchestratord": []})
    ready_s: list[float] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Nobody lost anything."""
        return not (self.lost or self.duplicated or self.gaps)


class Ring:
    """The daemons of one variant and the jobs on them."""

    def __init__(self, plan: Plan, cluster: Cluster, seed: int) -> None:
        self._plan = plan
        self._cluster = cluster
        self._chance = Random(seed)
        self._bodies = bodies(plan, seed)
        self._ports = {name: free_port() for name in WORKERS}
        self._numbers = itertools.count()
        self._running: dict[int, Job] = {}
        self._stopping = False
        self._daemons: dict[str, Daemon] = {}
        self.seen = Seen()

    def start(self) -> None:
        """Everything, ready for work."""
        self._daemons["orchestratord"] = self._cluster.orchestratord()
        for name in WORKERS:
            self._start_worker(name)
        workers_ready(self._daemons["orchestratord"], len(WORKERS))

    @property
    def url(self) -> str:
        """Where the clients go."""
        return self._daemons["orchestratord"].url

    def _start_worker(self, name: str) -> None:
        plan = self._plan
        flags = ("--kernels", plan.kernels, "--dtype", plan.dtype, "--threads", "1", "--slots", str(plan.clients))
        self._daemons[name] = self._cluster.worker(*flags, worker_id=name, port=self._ports[name])

    async def run(self) -> None:
        """Undisturbed texts first, then all kills, then the comparison. Raises HostError."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            client = Client(self.url, session)
            expected = await self._undisturbed(client)
            async with asyncio.TaskGroup() as group:
                for _ in range(self._plan.clients):
                    group.create_task(self._stream(client))
                await self._kill_all()
                self._stopping = True
            say(f"{len(self.seen.jobs)} jobs have come to their ends; comparing")
            await self._judge(client, expected)

    async def _undisturbed(self, client: Client) -> list[Text]:
        """What every text has to be."""
        say(f"{len(self._bodies)} undisturbed texts, {self._plan.kernels} kernels")
        room = asyncio.Semaphore(8)

        async def one(body: dict[str, Any]) -> Text:
            async with room:
                job = Job(body, next(self._numbers))
                await client.run(job)
            if job.lost or job.trouble:
                raise HostError(f"an undisturbed job has no end: {job.trouble or job.ends}")
            return job.text

        return list(await asyncio.gather(*map(one, self._bodies)))

    async def _stream(self, client: Client) -> None:
        """One client: job after job until all kills are done."""
        while not self._stopping:
            number = next(self._numbers)
            job = Job(self._bodies[number % len(self._bodies)], number)
            self._running[number] = job
            await client.run(job)
            del self._running[number]
            self.seen.jobs.append(job)

    async def _kill_all(self) -> None:
        give_up_at = monotonic() + self._plan.budget_s
        for kind, victim in self._victims():
            await self._until_streaming()
            await asyncio.sleep(self._chance.uniform(0.0, 0.3))
            await self._kill(kind, victim)
            say(
                f"kill {self.seen.kills} of {self._plan.kills}, {victim}: "
                f"longest pause {self.seen.recovery_s[kind][-1] * 1000:.0f} ms"
            )
            if monotonic() > give_up_at:
                raise HostError(
                    f"only {self.seen.kills} of {self._plan.kills} kills within {self._plan.budget_s:.0f} s"
                )

    def _victims(self) -> Iterator[tuple[str, str]]:
        """Workers in turn, and orchestratord after each."""
        workers = itertools.cycle(WORKERS)
        for number in range(self._plan.kills):
            yield ("worker", next(workers)) if number % 2 == 0 else ("orchestratord", "orchestratord")

    async def _until_streaming(self) -> None:
        """Most clients are in the middle of a text."""
        most = self._plan.clients * 3 // 4
        await self._until(lambda: sum(job.under_way for job in self._running.values()) >= most, "clients stream")

    async def _kill(self, kind: str, victim: str) -> None:
        """Kill, start again, and wait until all is as before."""
        watched = [job for job in self._running.values() if job.under_way]
        before = {job.number: len(job.arrivals) for job in watched}
        killed_at = monotonic()
        await asyncio.to_thread(self._daemons[victim].kill)
        if kind == "worker":
            await asyncio.to_thread(self._start_worker, victim)
        else:
            port = int(self.url.rpartition(":")[2])
            start = partial(self._cluster.orchestratord, port=port)
            self._daemons["orchestratord"] = await asyncio.to_thread(start)
            self.seen.ready_s.append(monotonic() - killed_at)
        await asyncio.to_thread(workers_ready, self._daemons["orchestratord"], len(WORKERS))
        await self._until(
            lambda: all(job.ends or len(job.arrivals) >= before[job.number] + TOKENS_AFTER for job in watched),
            f"every stream goes on after the death of {victim}",
        )
        over_at = monotonic()
        self.seen.recovery_s[kind].append(max(longest_pause_s(job, killed_at, over_at) for job in watched))
        self.seen.kills += 1

    async def _until(self, condition: Any, what: str) -> None:
        give_up_at = monotonic() + SETTLE_S
        while not condition():
            if monotonic() > give_up_at:
                raise HostError(f"waited {SETTLE_S:.0f} s in vain: {what}")
            await asyncio.sleep(POLL_S)

    async def _judge(self, client: Client, expected: list[Text]) -> None:
        """Every job as its client saw it, and once more as it is kept."""
        seen = self.seen
        for job in seen.jobs:
            kept = await client.again(job)
            lost = job.lost or bool(job.trouble)
            repeats, gaps = job.repeats + kept.repeats, job.gaps + kept.gaps
            more_ends = max(0, len(job.ends) - 1) + max(0, len(kept.ends) - 1)
            seen.lost += lost
            seen.duplicated += bool(repeats or more_ends)
            seen.gaps += bool(gaps)
            diverged = not lost and not (job.text == kept.text == expected[job.number % len(self._bodies)])
            seen.diverged += diverged
            seen.continued += await client.attempts(job) > 1
            if lost or repeats or gaps or more_ends or diverged:
                say(f"{job.job_id}: {job.trouble or job.ends} {repeats=} {gaps=} {more_ends=} {diverged=}")


def run(plan: Plan, seed: int) -> Seen:
    """One variant from start to end. Raises HostError."""
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix="failover-") as home:
        cluster = Cluster(Path(home))
        try:
            ring = Ring(plan, cluster, seed)
            ring.start()
            asyncio.run(ring.run())
            return ring.seen
        except AssertionError as problem:  # of the daemons' starting and waiting
            raise HostError(str(problem)) from None
        except ExceptionGroup as problems:
            raise problems.exceptions[0] from None
        finally:
            cluster.close()


def show(plan: Plan, seen: Seen) -> None:
    """The native variant."""
    print(f"failover_runs={seen.kills} lost={seen.lost} duplicated={seen.duplicated} gaps={seen.gaps}")
    print(f"diverged={seen.diverged}")
    print(f"kernels={plan.kernels}")
    print(f"dtype={plan.dtype}")
    print(f"jobs={len(seen.jobs)}")
    print(f"continued={seen.continued}")
    for kind, pauses in seen.recovery_s.items():
        print(f"recovery_{kind}_ms_p50={median(pauses) * 1000:.0f}")
        print(f"recovery_{kind}_ms_max={max(pauses) * 1000:.0f}")
    print(f"ready_after_kill_ms_p50={median(seen.ready_s) * 1000:.0f}", flush=True)


def show_torch(seen: Seen) -> None:
    """The torch variant, whose texts may depend on who is computed with whom."""
    print(
        f"failover_runs_torch={seen.kills} lost_torch={seen.lost} "
        f"duplicated_torch={seen.duplicated} gaps_torch={seen.gaps}"
    )
    print(f"jobs_torch={len(seen.jobs)}")
    print(f"diverged_torch={seen.diverged}", flush=True)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=40, help="half of them workers, half orchestratord")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--only", choices=("native", "torch"))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    native = Plan("native", "bf16", args.kills, args.clients, texts=48, tokens=400, budget_s=330.0)
    torch = Plan("torch", "fp32", 4, 8, texts=16, tokens=80, budget_s=90.0)
    print(f"cpu={machine.cpu_line(os.cpu_count() or 1)}", flush=True)
    sound = True
    try:
        with machine.alone(FOLDER):
            if args.only != "torch":
                seen = run(native, args.seed)
                show(native, seen)
                sound = seen.sound and not seen.diverged
            if args.only != "native":
                seen = run(torch, args.seed)
                show_torch(seen)
                sound = sound and seen.sound
    except LlorchError as error:
        print(f"llorch: {error.message}", file=sys.stderr)
        return 1
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
