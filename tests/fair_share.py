"""A contest for slots: flows that always have jobs waiting, simulated workers, and who got how many tokens."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from heapq import heappop, heappush
from random import Random

from llorch.base.ids import JobId, ModelId, PoolId, SessionId, TenantId, WorkerId
from llorch.core import events as happened
from llorch.core.brain import Brain, BrainSettings
from llorch.core.effects import Accept, Dispatch, Effect
from llorch.core.job import JobSpec, Result
from llorch.core.settings import UNBOUNDED
from llorch.core.tenant import TenantLimits
from llorch.core.worker import WorkerSpec

TOKENS_PER_S = 100.0
MODEL = ModelId("demo")


@dataclass(frozen=True, slots=True)
class Contestant:
    """A flow that keeps `backlog` jobs waiting; each generates a random number of tokens around `mean`."""

    tenant: str
    backlog: int
    mean: int = 100
    session: str | None = None
    max_tokens: int = 1000
    weight: float = 1.0


class Contest:
    """Runs the brain with all contestants in virtual time; `got` are the tokens of the jobs that ended."""

    def __init__(self, contestants: list[Contestant], seed: int, workers: int = 2, slots: int = 4) -> None:
        self.rng = Random(seed)
        self.brain = Brain(BrainSettings(queue_capacity=UNBOUNDED, lease_s=1e9, queue_timeout_interactive_s=None))
        self.got: Counter[Contestant] = Counter()
        self.now = 0.0
        self._owner: dict[JobId, Contestant] = {}
        self._waiting: Counter[Contestant] = Counter()
        self._ends: list[tuple[float, JobId, Dispatch, int]] = []
        limits = {TenantId(one.tenant): TenantLimits(weight=one.weight) for one in contestants}
        self._tell(happened.CatalogRead(frozenset({MODEL})))
        self._tell(happened.TenantsRead(limits))
        for one in contestants:
            self._top_up(one)
        for number in range(workers):
            name = WorkerId(f"w{number}")
            spec = WorkerSpec(name, f"http://{name}", MODEL, "cpu", PoolId("p"), slots, 4096, 0, "1", 1)
            self._tell(happened.WorkerAnnounced(spec))

    def run(self, jobs: int) -> Counter[Contestant]:
        """Let so many jobs end."""
        for _ in range(jobs):
            self.now, _, done, tokens = heappop(self._ends)
            self.got[self._owner[done.job_id]] += tokens
            self._tell(happened.AttemptEnded(done.job_id, done.attempt, Result("EOS", tokens)))
        return self.got

    def _top_up(self, one: Contestant) -> None:
        while self._waiting[one] < one.backlog:
            job_id = JobId(f"job-{len(self._owner)}")
            self._owner[job_id] = one
            spec = JobSpec(
                job_id,
                b"",
                "",
                prompt_bytes=10,
                seed=1,
                model=MODEL,
                max_tokens=one.max_tokens,
                tenant=TenantId(one.tenant),
                session_id=None if one.session is None else SessionId(one.session),
            )
            self._tell(happened.JobSubmitted(spec))

    def _tell(self, event: happened.Event) -> None:
        self._note(self.brain.decide(event, self.now))

    def _note(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Accept):
                self._waiting[self._owner[effect.job_id]] += 1
            if isinstance(effect, Dispatch):
                one = self._owner[effect.job_id]
                self._waiting[one] -= 1
                tokens = min(one.max_tokens, 1 + round(self.rng.expovariate(1 / one.mean)))
                heappush(self._ends, (self.now + tokens / TOKENS_PER_S, effect.job_id, effect, tokens))
                self._top_up(one)


def unfairness(got: Counter[Contestant], weights: dict[Contestant, float]) -> float:
    """The largest difference between what one got and its share, as a part of its share."""
    total, parts = sum(got.values()), sum(weights.values())
    return max(abs(got[one] / (total * weight / parts) - 1) for one, weight in weights.items())
