"""Who is next: one order per lane (the model asked for, or none), with places countable in O(log n).

A lane's jobs stand in one order and, by what they demand of a worker, in buckets: two jobs of one bucket fit the same
workers, so placement looks at bucket heads only and a job nobody can serve now blocks nobody else.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from math import exp
from typing import NamedTuple

from llorch.base.ids import JobId, ModelId, WorkerId

CHUNK_MAX = 1024
RATE_MIN = 1e-6  # jobs per second: a rate may fade, but is divided by


class QueueKey(NamedTuple):
    """The order of waiting: broken-off jobs first, then by handicapped time of acceptance, then by arrival."""

    rank: int
    since: float
    sequence: int
    job_id: JobId


class Shape(NamedTuple):
    """What a job demands of a worker. Jobs of equal shape fit equal workers.

    `context` 0 asks nothing. `exact` False: the need is an upper bound, so a smaller worker is the second choice.
    `shun` is the worker that failed the job last: its second choice, too.
    """

    lane: ModelId | None
    pin_worker: WorkerId | None = None
    pin_pool: str | None = None
    only_pools: tuple[str, ...] = ()
    avoid_pools: tuple[str, ...] = ()
    context: int = 0
    exact: bool = True
    shun: WorkerId | None = None


class SortedKeys:
    """A sorted set of keys in chunks: add, remove and rank cost one bisect over chunks and one inside."""

    def __init__(self) -> None:
        self._chunks: list[list[QueueKey]] = []
        self._lasts: list[QueueKey] = []
        self._len = 0

    def __len__(self) -> int:
        return self._len

    def __iter__(self) -> Iterator[QueueKey]:
        for chunk in self._chunks:
            yield from chunk

    def first(self) -> QueueKey:
        """The smallest key; the set must not be empty."""
        return self._chunks[0][0]

    def add(self, key: QueueKey) -> None:
        self._len += 1
        if not self._chunks:
            self._chunks.append([key])
            self._lasts.append(key)
            return
        at = min(bisect_left(self._lasts, key), len(self._chunks) - 1)
        chunk = self._chunks[at]
        insort(chunk, key)
        self._lasts[at] = chunk[-1]
        if len(chunk) > CHUNK_MAX:
            half = len(chunk) // 2
            self._chunks[at : at + 1] = [chunk[:half], chunk[half:]]
            self._lasts[at : at + 1] = [chunk[half - 1], chunk[-1]]

    def remove(self, key: QueueKey) -> None:
        """Take the key out; it must be there."""
        at = bisect_left(self._lasts, key)
        chunk = self._chunks[at]
        inside = bisect_left(chunk, key)
        assert chunk[inside] == key
        del chunk[inside]
        self._len -= 1
        if chunk:
            self._lasts[at] = chunk[-1]
        else:
            del self._chunks[at], self._lasts[at]

    def rank(self, key: QueueKey) -> int:
        """How many keys are smaller."""
        at = bisect_left(self._lasts, key)
        below = sum(map(len, self._chunks[:at]))
        return below + (bisect_left(self._chunks[at], key) if at < len(self._chunks) else 0)


class DrainRate:
    """Jobs leaving per second, learned: an exponentially weighted rate, corrected while it is young."""

    def __init__(self, memory_s: float = 60.0) -> None:
        self._memory_s = memory_s
        self._rate = 0.0
        self._since: float | None = None
        self._last = 0.0

    def note(self, now: float) -> None:
        """One job left the queue."""
        if self._since is None:
            self._since = self._last = now
            return
        self._rate = self._rate * exp((self._last - now) / self._memory_s) + 1 / self._memory_s
        self._last = now

    def per_s(self, now: float) -> float | None:
        """Jobs per second; None while too little was seen."""
        if self._since is None or self._rate == 0.0:
            return None
        weight = 1 - exp((self._since - now) / self._memory_s)
        rate = self._rate * exp((self._last - now) / self._memory_s)
        return max(rate / weight, RATE_MIN) if weight > 0 else None


class Lane:
    """The waiting jobs of one model, or of no particular one."""

    def __init__(self) -> None:
        self.order = SortedKeys()
        self.buckets: dict[WorkerId | None, dict[Shape, SortedKeys]] = {}
        self.rate = DrainRate()

    def add(self, key: QueueKey, shape: Shape) -> None:
        self.buckets.setdefault(shape.pin_worker, {}).setdefault(shape, SortedKeys()).add(key)

    def remove(self, key: QueueKey, shape: Shape) -> None:
        shapes = self.buckets[shape.pin_worker]
        shapes[shape].remove(key)
        if not shapes[shape]:
            del shapes[shape]
        if not shapes:
            del self.buckets[shape.pin_worker]

    def shapes(self) -> Iterator[Shape]:
        for shapes in self.buckets.values():
            yield from shapes


class _Waiting:
    __slots__ = ("batch", "held", "key", "shape")

    def __init__(self, key: QueueKey, shape: Shape, batch: bool, held: bool) -> None:
        self.key = key
        self.shape = shape
        self.batch = batch
        self.held = held


class Queue:
    """All waiting jobs. `held` ones (backing off) keep their place but are not offered."""

    def __init__(self) -> None:
        self._lanes: dict[ModelId | None, Lane] = {None: Lane()}
        self._waiting: dict[JobId, _Waiting] = {}
        self._batch = SortedKeys()
        self.rate = DrainRate()

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, job_id: JobId) -> bool:
        return job_id in self._waiting

    def lane(self, model: ModelId | None) -> Lane:
        return self._lanes.setdefault(model, Lane())

    def push(self, key: QueueKey, shape: Shape, *, batch: bool, held: bool) -> None:
        """Let a job wait; `batch` ones of the ordinary rank are the ones `oldest_batch` may name."""
        assert key.job_id not in self._waiting
        lane = self.lane(shape.lane)
        batch = batch and key.rank > 0
        self._waiting[key.job_id] = _Waiting(key, shape, batch, held)
        lane.order.add(key)
        if not held:
            lane.add(key, shape)
        if batch:
            self._batch.add(key)

    def offer(self, job_id: JobId) -> None:
        """A held job may be placed again."""
        waiting = self._waiting[job_id]
        if waiting.held:
            waiting.held = False
            self.lane(waiting.shape.lane).add(waiting.key, waiting.shape)

    def hold(self, job_id: JobId) -> None:
        """An offered job keeps its place, but is not offered any more."""
        waiting = self._waiting[job_id]
        if not waiting.held:
            waiting.held = True
            self.lane(waiting.shape.lane).remove(waiting.key, waiting.shape)

    def reshape(self, job_id: JobId, shape: Shape) -> None:
        """The job demands something else of the same lane now; its place stays."""
        waiting = self._waiting[job_id]
        assert shape.lane == waiting.shape.lane
        if shape != waiting.shape and not waiting.held:
            lane = self.lane(shape.lane)
            lane.remove(waiting.key, waiting.shape)
            lane.add(waiting.key, shape)
        waiting.shape = shape

    def of_lane(self, model: ModelId | None) -> list[JobId]:
        """All that wait for this model, in order."""
        return [key.job_id for key in self.lane(model).order]

    def remove(self, job_id: JobId) -> None:
        """The job waits no more."""
        waiting = self._waiting.pop(job_id)
        lane = self.lane(waiting.shape.lane)
        lane.order.remove(waiting.key)
        if not waiting.held:
            lane.remove(waiting.key, waiting.shape)
        if waiting.batch:
            self._batch.remove(waiting.key)

    def entry(self, job_id: JobId) -> tuple[QueueKey, Shape, bool] | None:
        """Key, shape and whether it is held; None when the job does not wait."""
        waiting = self._waiting.get(job_id)
        return None if waiting is None else (waiting.key, waiting.shape, waiting.held)

    def leads(self, job_id: JobId) -> bool:
        """Nobody with the same demands stands before this offered job."""
        waiting = self._waiting[job_id]
        shapes = self._lanes[waiting.shape.lane].buckets[waiting.shape.pin_worker]
        return shapes[waiting.shape].first() == waiting.key

    def left(self, lane: ModelId | None, now: float) -> None:
        """A job of this lane got its worker: learn the speed."""
        self.lane(lane).rate.note(now)
        self.rate.note(now)

    def heads(self, model: ModelId, worker_id: WorkerId) -> Iterator[tuple[QueueKey, Shape]]:
        """The first job of every bucket that this worker of this model might serve."""
        for lane in (self._lanes.get(model), self._lanes[None]):
            if lane is None:
                continue
            for pin in (None, worker_id):
                for shape, keys in lane.buckets.get(pin, {}).items():
                    yield keys.first(), shape

    def position(self, job_id: JobId) -> int | None:
        """How many jobs wait ahead of it that want its model or any; None when it does not wait."""
        waiting = self._waiting.get(job_id)
        if waiting is None:
            return None
        if waiting.shape.lane is None:
            return sum(lane.order.rank(waiting.key) for lane in self._lanes.values())
        own = self._lanes[waiting.shape.lane]
        return own.order.rank(waiting.key) + self._lanes[None].order.rank(waiting.key)

    def eta_s(self, job_id: JobId, position: int, now: float) -> float | None:
        """Seconds until its turn at the lane's learned speed."""
        rate = self._lanes[self._waiting[job_id].shape.lane].rate.per_s(now)
        return None if rate is None else (position + 1) / rate

    def oldest_batch(self) -> JobId | None:
        """The batch job that waited longest, continuing ones spared."""
        return self._batch.first().job_id if self._batch else None

    def pinned(self) -> list[Shape]:
        """Every shape with a pin that somebody waits with."""
        return [s for lane in self._lanes.values() for s in lane.shapes() if s.pin_worker or s.pin_pool]

    def members(self, shape: Shape) -> list[JobId]:
        """The offered jobs of one shape, in order."""
        shapes = self.lane(shape.lane).buckets.get(shape.pin_worker, {})
        return [key.job_id for key in shapes.get(shape, ())]
