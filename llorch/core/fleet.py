"""The workers as the brain believes them to be: leases, seats taken, and who is open for one more job.

A *seat* is one of our attempts on a worker's slot, from Dispatch until the shell reports its end (or its limit rings).
Slots free = slots_total - our seats - foreign sequences seen by the last heartbeat; a worker with a free slot that may
be asked now is *open* and stands in an index by load. Errors count as load, so a failing worker comes last.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from llorch.base.ids import JobId, ModelId, PoolId, WorkerId
from llorch.core.effects import PoolRecord
from llorch.core.prefixes import PrefixIndex
from llorch.core.worker import Load, WorkerRecord, WorkerSpec, WorkerState

Seat = tuple[JobId, int]
LoadKey = tuple[float, float, WorkerId]

ERROR_HALF_LIFE_S = 30.0
ERRORS_KEPT_MAX = 20.0


@dataclass(slots=True)
class Worker:
    """One worker, mutable: what it announced and what we know since.

    `failed_jobs` failed here since the last success; `trips` counts how often it was left alone for that (see breaker).
    `used_at` is when it last had one of our jobs, or came.
    """

    spec: WorkerSpec
    announced_at: float
    lease_until: float
    state: WorkerState = WorkerState.READY
    load: Load = field(default_factory=Load)
    seats: set[Seat] = field(default_factory=set)
    foreign: int = 0
    rests_until: float = 0.0
    refusals: int = 0
    errors: float = 0.0
    errors_at: float = 0.0
    lost_reason: str | None = None
    drain_asked: bool = False
    failed_jobs: set[JobId] = field(default_factory=set)
    failed_at: float = 0.0
    trips: int = 0
    tripped_until: float = 0.0
    used_at: float = 0.0
    open_key: LoadKey | None = None

    @property
    def id(self) -> WorkerId:
        return self.spec.worker_id

    @property
    def idle(self) -> bool:
        """No sequence is on it, neither ours nor anybody's."""
        return not self.seats and self.foreign == 0

    @property
    def slots_free(self) -> int:
        return self.spec.slots_total - len(self.seats) - self.foreign

    def record(self) -> WorkerRecord:
        """The worker as it is stored and listed."""
        return WorkerRecord(
            spec=self.spec,
            state=self.state,
            announced_at=self.announced_at,
            lease_until=self.lease_until,
            load=self.load,
            slots_used=len(self.seats),
            lost_reason=self.lost_reason,
        )

    def errors_now(self, now: float) -> float:
        """Recent failures, halved every half-life."""
        return self.errors * 0.5 ** ((now - self.errors_at) / ERROR_HALF_LIFE_S) if self.errors else 0.0

    def rank(self, now: float) -> LoadKey:
        """Smaller is better: share of slots in use plus recent errors, then speed, then id."""
        used = self.spec.slots_total - self.slots_free
        load = used / self.spec.slots_total + round(self.errors_now(now), 2)
        return (load, -self.load.tokens_per_s, self.id)


class Fleet:
    """All workers and pools, indexed for placement."""

    def __init__(self) -> None:
        self.workers: dict[WorkerId, Worker] = {}
        self.pools: dict[PoolId, bool] = {}
        self._seats: dict[Seat, WorkerId] = {}
        self._serving: dict[ModelId, dict[WorkerId, Worker]] = {}
        self._ready: dict[ModelId, dict[WorkerId, Worker]] = {}
        self._open: dict[ModelId | None, list[LoadKey]] = {None: []}
        self._by_url: dict[str, WorkerId] = {}
        self._contexts: dict[ModelId | None, list[int]] = {}
        self.models: set[ModelId] = set()
        self.loadable_pools: frozenset[PoolId] = frozenset()
        self.labels: Mapping[PoolId, tuple[str, ...]] = {}
        self.prefixes = PrefixIndex()

    def add(self, worker: Worker, now: float) -> None:
        """Take a worker in; its id must be free."""
        assert worker.id not in self.workers
        worker.used_at = max(worker.used_at, now)
        self.workers[worker.id] = worker
        self._index(worker, now)

    def renew(self, worker: Worker, spec: WorkerSpec, now: float) -> None:
        """A known worker announced itself again; its seats stay, what it had in its cache may be gone."""
        self._unindex(worker)
        worker.spec, worker.announced_at = spec, now
        worker.state, worker.lost_reason = WorkerState.READY, None
        # A worker that failed before it came anew may be tried at once, but with one job at a time.
        worker.rests_until, worker.tripped_until, worker.foreign, worker.drain_asked = 0.0, 0.0, 0, False
        self._index(worker, now)

    def move(self, worker: Worker, pool: PoolId, now: float) -> None:
        """The worker turns out to be on this pool."""
        self._close(worker)
        worker.spec = replace(worker.spec, pool=pool)
        self.refresh(worker, now)

    def drop(self, worker: Worker) -> None:
        """Forget a worker and its seats."""
        self._unindex(worker)
        del self.workers[worker.id]
        for seat in worker.seats:
            del self._seats[seat]

    def _index(self, worker: Worker, now: float) -> None:
        spec = worker.spec
        self._by_url[spec.url] = worker.id
        self._serving.setdefault(spec.model, {})[worker.id] = worker
        self.models.add(spec.model)
        for lane in (spec.model, None):
            contexts = self._contexts.setdefault(lane, [])
            if spec.context_length not in contexts:
                insort(contexts, spec.context_length)
        self.refresh(worker, now)

    def _unindex(self, worker: Worker) -> None:
        self._close(worker)
        self.prefixes.report(worker.id, frozenset())
        del self._serving[worker.spec.model][worker.id]
        self._ready[worker.spec.model].pop(worker.id, None)
        if self._by_url.get(worker.spec.url) == worker.id:
            del self._by_url[worker.spec.url]

    def at_url(self, url: str) -> Worker | None:
        """The worker that announced this address last."""
        worker_id = self._by_url.get(url)
        return None if worker_id is None else self.workers.get(worker_id)

    def refresh(self, worker: Worker, now: float) -> None:
        """Put the worker where it belongs in the indexes after any change of it."""
        self._close(worker)
        ready = self._ready.setdefault(worker.spec.model, {})
        if worker.state is WorkerState.READY and worker.spec.protocol_ok:
            ready[worker.id] = worker
        else:
            ready.pop(worker.id, None)
        if self.shut(worker, now) is None:
            worker.open_key = worker.rank(now)
            for index in (worker.spec.model, None):
                insort(self._open.setdefault(index, []), worker.open_key)

    def _close(self, worker: Worker) -> None:
        key = worker.open_key
        if key is None:
            return
        for index in (worker.spec.model, None):
            keys = self._open[index]
            at = bisect_left(keys, key)
            assert keys[at] == key
            del keys[at]
        worker.open_key = None

    def shut(self, worker: Worker, now: float) -> str | None:
        """Why this worker takes no job at all now; None when it is open."""
        spec = worker.spec
        if not spec.protocol_ok:
            return f"speaks protocol {spec.protocol}"
        if worker.state is WorkerState.LOST:
            return f"lost ({worker.lost_reason or 'not seen since the restart'})"
        if worker.state is WorkerState.DRAINING:
            return "draining"
        if self.pools.get(spec.pool, False):
            return f"pool {spec.pool} is draining"
        if now < worker.rests_until:
            return f"busy, may be asked again in {worker.rests_until - now:.1f} s"
        if now < worker.tripped_until:
            return f"failed too often in a row, may be tried again in {worker.tripped_until - now:.1f} s"
        if worker.trips and worker.seats:
            return "failed too often in a row, is tried with one job at a time"
        if worker.slots_free <= 0:
            return f"no free slot ({len(worker.seats)} ours and {worker.foreign} others on {spec.slots_total})"
        return None

    def open(self, lane: ModelId | None) -> Iterator[Worker]:
        """Workers that may get a job now, the least loaded first; change no worker while walking."""
        return (self.workers[key[2]] for key in self._open.get(lane, ()))

    def any_open(self, lane: ModelId | None) -> bool:
        """Is there a worker that may get a job now?"""
        return bool(self._open.get(lane))

    def ready(self, lane: ModelId | None) -> Iterable[Worker]:
        """Workers that are ready, open or not, of this model or of any."""
        if lane is not None:
            return self._ready.get(lane, {}).values()
        return (worker for workers in self._ready.values() for worker in workers.values())

    def serving(self, lane: ModelId | None) -> Iterable[Worker]:
        """Every known worker of this model or of any, lost and draining ones too."""
        return self.workers.values() if lane is None else self._serving.get(lane, {}).values()

    def contexts(self, lane: ModelId | None) -> list[int]:
        """The context lengths ever announced for this model or for any, ascending."""
        return self._contexts.get(lane, [])

    def live_count(self) -> int:
        """Workers that are ready."""
        return sum(len(workers) for workers in self._ready.values())

    def pool_records(self) -> list[PoolRecord]:
        """Registered pools plus the hosts of workers not lost, by id."""
        pools = dict.fromkeys((w.spec.pool for w in self.workers.values() if w.state is not WorkerState.LOST), False)
        pools.update(self.pools)
        return [PoolRecord(pool_id, draining) for pool_id, draining in sorted(pools.items())]

    def take_seat(self, worker: Worker, seat: Seat, now: float) -> None:
        """One of our attempts begins; the worker must have a slot for it."""
        assert worker.slots_free > 0 and seat not in self._seats
        worker.seats.add(seat)
        worker.used_at = now
        self._seats[seat] = worker.id
        self.refresh(worker, now)

    def leave_seat(self, seat: Seat, now: float) -> Worker | None:
        """The attempt is over; answers whose slot came free, None when the seat is not taken (any more)."""
        worker_id = self._seats.pop(seat, None)
        if worker_id is None:
            return None
        worker = self.workers[worker_id]
        worker.seats.discard(seat)
        worker.used_at = now
        self.refresh(worker, now)
        return worker

    def seated(self, seat: Seat) -> Worker | None:
        """The worker this attempt sits on, while it does."""
        worker_id = self._seats.get(seat)
        return None if worker_id is None else self.workers[worker_id]

    def blame(self, worker: Worker, now: float) -> None:
        """Count a failure as load."""
        worker.errors = min(worker.errors_now(now) + 1.0, ERRORS_KEPT_MAX)
        worker.errors_at = now
        self.refresh(worker, now)

    def praise(self, worker: Worker, now: float) -> None:
        """A job went well: forgive half of the failures."""
        if worker.errors:
            worker.errors = worker.errors_now(now) / 2
            worker.errors = 0.0 if worker.errors < 0.05 else worker.errors
            worker.errors_at = now
            self.refresh(worker, now)

    def heard(self, worker: Worker, load: Load, now: float) -> None:
        """Take the facts of a heartbeat; sequences beyond our seats are somebody else's."""
        worker.load = replace(load)
        worker.foreign = max(0, load.slots_busy - len(worker.seats))
        self.refresh(worker, now)
