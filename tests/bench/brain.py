"""How fast the brain decides with a long queue: submissions, and turn-overs (one ends, the next is placed, one comes).

Prints key=value: `submit_per_s` and `turnover_per_s` at the full queue, `scale_ratio` = time per decision there against
a short queue in the same process; the same with `_tenants` for 100 tenants of 100 sessions each. `fair_share_error` is
the largest part by which a tenant's tokens differed from its share while one of two submitted ten times as much, over
some seeds. Run: PYTHONPATH=. python tests/bench/brain.py [--workers N] [--queued N]
"""

from __future__ import annotations

import argparse
import sys
from collections import deque
from pathlib import Path
from statistics import median
from time import perf_counter

from llorch.base.ids import JobId, ModelId, PoolId, SessionId, TenantId, WorkerId
from llorch.core.brain import Brain, BrainSettings
from llorch.core.effects import Dispatch, Effect
from llorch.core.events import AttemptEnded, HeartbeatReceived, JobSubmitted, WorkerAnnounced
from llorch.core.job import JobSpec, Priority, Result
from llorch.core.settings import UNBOUNDED
from llorch.core.worker import Load, WorkerSpec

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fair_share import Contest, Contestant, unfairness

MODELS = 10
PROBES = 500
ROUNDS = 7
SESSIONS_A_TENANT = 100
SEEDS = 10
JOBS = 3000


class Load100k:
    """A brain with all workers busy and a queue of a given length, of so many tenants in turn."""

    def __init__(self, workers: int, queued: int, tenants: int = 1) -> None:
        self.tenants = tenants
        self.brain = Brain(BrainSettings(queue_capacity=UNBOUNDED, lease_s=1e9))
        self.now = 0.0
        self.number = 0
        self.on_worker: deque[Dispatch] = deque()
        for n in range(workers):
            model, pool = ModelId(f"m{n % MODELS}"), PoolId(f"p{n % 100}")
            spec = WorkerSpec(WorkerId(f"w{n}"), f"http://w{n}", model, "cpu", pool, 4, 4096, 0, "1", 1)
            self.brain.decide(WorkerAnnounced(spec), self.now)
        while self.brain.counts().queue_depth < queued:
            for _ in range(1000):
                self.submit()

    def submit(self) -> None:
        self.now += 0.0001
        self.number += 1
        spec = JobSpec(
            job_id=JobId(f"job-{self.number}"),
            payload=b"",
            prompt_sha256="",
            prompt_bytes=100,
            seed=1,
            model=ModelId(f"m{self.number % MODELS}"),
            max_tokens=100,
            priority=Priority.BATCH if self.number % 3 == 0 else Priority.INTERACTIVE,
            tenant=TenantId(f"t{self.number // MODELS % self.tenants}"),
            session_id=self.session(),
        )
        self.note(self.brain.decide(JobSubmitted(spec), self.now))

    def session(self) -> SessionId | None:
        """With one tenant none, else one of its many."""
        if self.tenants == 1:
            return None
        return SessionId(f"s{self.number // MODELS // self.tenants % SESSIONS_A_TENANT}")

    def turn_over(self) -> None:
        self.now += 0.0001
        done = self.on_worker.popleft()
        self.note(self.brain.decide(AttemptEnded(done.job_id, done.attempt, Result("EOS", 10)), self.now))
        self.submit()

    def beat(self) -> None:
        self.now += 0.0001
        self.number += 1
        name = WorkerId(f"w{self.number % 1000}")
        self.brain.decide(HeartbeatReceived(name, Load(slots_busy=4)), self.now)

    def note(self, effects: list[Effect]) -> None:
        self.on_worker.extend(effect for effect in effects if isinstance(effect, Dispatch))


def seconds(what: object) -> float:
    """Median seconds of one call over some rounds."""
    assert callable(what)
    rounds = []
    for _ in range(ROUNDS):
        began = perf_counter()
        for _ in range(PROBES):
            what()
        rounds.append((perf_counter() - began) / PROBES)
    return median(rounds)


def fair_share_error() -> float:
    """Of two tenants with equal weight that always have jobs waiting, one with ten times as many."""
    busy, modest = Contestant("busy", backlog=50), Contestant("modest", backlog=5)
    shares = {busy: 1.0, modest: 1.0}
    return max(unfairness(Contest([busy, modest], seed).run(JOBS), shares) for seed in range(SEEDS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--queued", type=int, default=100_000)
    args = parser.parse_args()
    short, full = Load100k(args.workers, 1000), Load100k(args.workers, args.queued)
    few = {name: seconds(getattr(short, name)) for name in ("turn_over", "submit", "beat")}
    many = {name: seconds(getattr(full, name)) for name in ("turn_over", "submit", "beat")}
    print(f"workers={args.workers}")
    print(f"queued={full.brain.counts().queue_depth}")
    print(f"submit_per_s={1 / many['submit']:.0f}")
    print(f"turnover_per_s={1 / many['turn_over']:.0f}")
    print(f"heartbeat_per_s={1 / many['beat']:.0f}")
    print(f"scale_ratio={sum(many.values()) / sum(few.values()):.2f}")
    for name in few:
        print(f"{name}_ratio={many[name] / few[name]:.2f}")
    crowd = Load100k(args.workers, args.queued, tenants=100)
    print(f"submit_per_s_tenants={1 / seconds(crowd.submit):.0f}")
    print(f"turnover_per_s_tenants={1 / seconds(crowd.turn_over):.0f}")
    print(f"fair_share_error={fair_share_error():.4f}")


if __name__ == "__main__":
    main()
