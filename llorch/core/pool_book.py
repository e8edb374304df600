"""The pools as the brain believes them to be: facts, what takes memory there by our own doing, and how it went before.

A *tenancy* is memory that a worker takes on a pool because a command of ours is about to start it, or did. Memory is
counted twice and the smaller result believed: what was measured free, less tenancies too young to be in the measure;
and the total, less all tenancies (a worker may grow into what it needs).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from hashlib import blake2b

from llorch.base.ids import ModelId, PoolId, WorkerId
from llorch.core.demand_settings import DemandRead, DemandSettings, ModelLimits
from llorch.core.learned import Mean
from llorch.core.pool_facts import RAM, ModelThere, PoolRead
from llorch.core.want import Want

PREFIX = "auto"


class Phase(Enum):
    """Where a worker of ours stands."""

    SPAWNING = "spawning"  # its command is given
    LIVE = "live"  # it is ready, as far as we know
    STOPPING = "stopping"  # the command that ends it is given
    GONE = "gone"  # it is over, and the next facts will not count it


@dataclass(slots=True)
class Tenancy:
    """A worker of ours on a pool. `settled`: the last facts count its memory. `since`: when its phase began."""

    worker_id: WorkerId
    pool: PoolId
    model: ModelId
    backend: str
    bank: str
    need_bytes: int
    phase: Phase
    since: float
    spawned_at: float
    settled: bool = False
    announced: bool = False
    progress: float = 0.0
    condemned: str = ""
    stop_at: float = 0.0


@dataclass(slots=True)
class Trouble:
    """Failures in a row of one model on one pool."""

    count: int = 0
    until: float = 0.0
    reason: str = ""


@dataclass(slots=True)
class Pool:
    """One pool; `facts` are the last that it could be asked for."""

    id: PoolId
    reachable: bool = False
    wakeable: bool = False
    reason: str = "not asked yet"
    facts: PoolRead | None = None
    heard_at: float | None = None
    asked_at: float | None = None
    waking_since: float | None = None
    wake_again_at: float = 0.0
    wake_s: Mean = field(default_factory=Mean)
    trouble: dict[ModelId, Trouble] = field(default_factory=dict)

    def model(self, model: ModelId) -> ModelThere | None:
        models = () if self.facts is None else self.facts.models
        return next((there for there in models if there.model == model), None)

    def bank_of(self, backend: str, gpu: int | None) -> str:
        places = () if self.facts is None else self.facts.places
        named = [place.bank for place in places if place.backend == backend and place.gpu == gpu]
        return named[0] if named else (RAM if gpu is None else f"gpu{gpu}")


class PoolBook:
    """All pools, all tenancies, and what was learned of loading."""

    def __init__(self) -> None:
        self.on_demand = False
        self.settings = DemandSettings()
        self.limits: dict[ModelId, ModelLimits] = {}
        self.default = ModelLimits()
        self.pools: dict[PoolId, Pool] = {}
        self.tenancies: dict[WorkerId, Tenancy] = {}
        self.failures: dict[ModelId, int] = {}
        self.last_code: dict[ModelId, str] = {}
        self.load_s: dict[tuple[ModelId, PoolId | None], Mean] = {}
        self.seen_bytes: dict[tuple[ModelId, str], int] = {}
        self.quiet_until = 0.0
        self.spawned = 0
        self.stirred = False
        self.wanting = False
        self.wanted_since: dict[Want, float] = {}
        self.hopeless_since: dict[Want, float] = {}
        self.declined_until: dict[Want, float] = {}
        self.asked_evict: set[Want] = set()
        self.swapped: set[Want] = set()

    def read(self, event: DemandRead) -> None:
        """The settings that hold from now on."""
        self.on_demand = event.settings is not None
        self.settings, self.default = event.settings or self.settings, event.default
        self.limits = dict(event.models)
        for name in event.pools:
            self.pool(name)
        for name in [name for name in self.pools if name not in event.pools and not any(self.on(name))]:
            del self.pools[name]
        self.stirred = True

    def limits_of(self, model: ModelId) -> ModelLimits:
        return self.limits.get(model, self.default)

    def condemned(self, worker_id: WorkerId) -> bool:
        """It is to go, and gets no job any more."""
        tenancy = self.tenancies.get(worker_id)
        return tenancy is not None and bool(tenancy.condemned)

    def is_ours(self, worker_id: WorkerId) -> bool:
        """Loaded on demand by this orchestratord, this process or one before it: only such are unloaded."""
        return worker_id.startswith(f"{PREFIX}-{self.settings.mark}-")

    @property
    def models(self) -> frozenset[ModelId]:
        """Every model that some pool has."""
        return frozenset(there.model for pool in self.pools.values() if pool.facts for there in pool.facts.models)

    def pool(self, pool_id: PoolId) -> Pool:
        return self.pools.setdefault(pool_id, Pool(pool_id))

    def on(self, pool_id: PoolId) -> Iterator[Tenancy]:
        """Who takes memory of this pool."""
        return (tenancy for tenancy in self.tenancies.values() if tenancy.pool == pool_id)

    def busy(self, pool_id: PoolId) -> bool:
        """A command of ours is under way there: what comes next has to wait for it."""
        return any(tenancy.phase in (Phase.SPAWNING, Phase.STOPPING) for tenancy in self.on(pool_id))

    def loading(self, model: ModelId | None) -> Iterator[Tenancy]:
        """Workers of this model, or of any, that are on their way to us."""
        for tenancy in self.tenancies.values():
            coming = tenancy.phase is Phase.SPAWNING or (tenancy.phase is Phase.LIVE and not tenancy.announced)
            if coming and not tenancy.condemned and model in (None, tenancy.model):
                yield tenancy

    def replicas(self, model: ModelId) -> int:
        """Workers of ours with this model that serve or will, those to be stopped left out."""
        phases = (Phase.SPAWNING, Phase.LIVE)
        return sum(
            t.model == model and t.phase in phases and not t.condemned and self.is_ours(t.worker_id)
            for t in self.tenancies.values()
        )

    def free_bytes(self, pool: Pool, bank: str) -> int:
        """What a newcomer may take of this bank, by both counts."""
        banks = () if pool.facts is None else pool.facts.banks
        found = next((known for known in banks if known.name == bank), None)
        if found is None:
            return 0
        there = [tenancy for tenancy in self.on(pool.id) if tenancy.bank == bank]
        unseen = sum(tenancy.need_bytes for tenancy in there if not tenancy.settled)
        return min(found.free_bytes - unseen, found.total_bytes - sum(tenancy.need_bytes for tenancy in there))

    def need_bytes(self, there: ModelThere, backend: str) -> int:
        """What a worker of this model will take: as measured, else by the size of its files."""
        measured = max(there.measured_bytes, self.seen_bytes.get((there.model, backend), 0))
        if measured:
            return measured
        return int(there.size_bytes * self.settings.size_factor) + self.settings.overhead_bytes

    def heard(self, facts: PoolRead, now: float) -> Pool:
        """Believe what a pool says of itself."""
        pool = self.pool(facts.pool)
        pool.reachable, pool.wakeable, pool.reason = facts.reachable, facts.wakeable, facts.reason
        pool.heard_at = now
        if not facts.reachable:
            return pool
        pool.facts = facts
        alive = {worker.worker_id for worker in facts.workers}
        for tenancy in list(self.on(pool.id)):
            if tenancy.phase is Phase.GONE or (tenancy.phase is Phase.LIVE and tenancy.worker_id not in alive):
                del self.tenancies[tenancy.worker_id]
            elif tenancy.phase is Phase.LIVE:
                tenancy.settled = True
        return pool

    def name_worker(self, pool: PoolId, model: ModelId, now: float) -> WorkerId:
        """A fresh id; `now` never repeats across restarts, the count not within a turn."""
        self.spawned += 1
        digest = blake2b(f"{pool}/{model}/{now!r}/{self.spawned}".encode(), digest_size=5).hexdigest()
        return WorkerId(f"{PREFIX}-{self.settings.mark}-{digest}")

    def failed(self, tenancy: Tenancy, reason: str, code: str, now: float) -> None:
        """A spawn failed: leave this model off this pool for a while, longer each time."""
        trouble = self.pool(tenancy.pool).trouble.setdefault(tenancy.model, Trouble())
        trouble.count += 1
        trouble.reason = reason
        self.last_code[tenancy.model] = code
        self.failures[tenancy.model] = self.failures.get(tenancy.model, 0) + 1
        wait_s = self.settings.spawn_backoff_first_s * 2.0 ** min(trouble.count - 1, 16)
        trouble.until = now + min(wait_s, self.settings.spawn_backoff_max_s)

    def succeeded(self, tenancy: Tenancy, now: float) -> None:
        """A worker of ours announced itself: learn how long it took, forgive what went wrong before."""
        self.pool(tenancy.pool).trouble.pop(tenancy.model, None)
        self.failures.pop(tenancy.model, None)
        for key in ((tenancy.model, tenancy.pool), (tenancy.model, None)):
            self.load_s.setdefault(key, Mean()).note(now - tenancy.spawned_at)

    def eta_s(self, tenancy: Tenancy, now: float) -> float | None:
        """Seconds until a loading worker is ready: as learned, else by its own progress; None: who knows."""
        took_s = now - tenancy.spawned_at
        learned_s = self.eta_for(tenancy.model, tenancy.pool)
        if learned_s is not None:
            return max(0.0, learned_s - took_s)
        return took_s * (1 - tenancy.progress) / tenancy.progress if tenancy.progress >= 0.05 else None

    def eta_for(self, model: ModelId, pool: PoolId) -> float | None:
        """Seconds that loading took there, or elsewhere; None: it was never seen."""
        means = (self.load_s.get((model, place)) for place in (pool, None))
        return next((mean.value for mean in means if mean is not None), None)

    def allowed(self, model: ModelId, pools: Iterable[PoolId]) -> list[PoolId]:
        """Of these pools those that the configuration lets the model run on."""
        named = self.limits_of(model).pools
        return [pool for pool in pools if not named or pool in named]
