"""Who is next: the waiting jobs of each lane (the model asked for, or none), with places countable in O(log n).

A lane's jobs stand in lines, one a tier (see fairness), and, by what they demand of a worker, in buckets: two jobs of
one bucket fit the same workers, so placement looks at bucket heads only and a job nobody can serve now blocks nobody
else.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import exp
from typing import NamedTuple

from llorch.base.ids import DEFAULT_TENANT, JobId, ModelId, SessionId, WorkerId
from llorch.core.counted_line import CountedLine, ahead
from llorch.core.fairness import Flow, Line, QueueKey, Share, Shares, Tier, Turn
from llorch.core.sorted_keys import SortedKeys

__all__ = ["DrainRate", "Flow", "Queue", "QueueKey", "Shape", "Tier", "Turn"]

RATE_MIN = 1e-6  # jobs per second: a rate may fade, but is divided by
TIERS = tuple(Tier)
ANYBODY = Flow(DEFAULT_TENANT, None)


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


class Bucket:
    """The offered jobs of one shape, in a line a tier."""

    def __init__(self) -> None:
        self.lines = [Line(tier) for tier in Tier]
        self.jobs = 0

    def add(self, share: Share, session: SessionId | None, key: QueueKey) -> None:
        self.lines[key.tier].add(share, session, key)
        self.jobs += 1

    def first(self) -> Turn | None:
        """Who is next; None when all that wait here are parked."""
        for line in self.lines:
            turn = line.first()
            if turn is not None:
                return turn
        return None


class Lane:
    """The waiting jobs of one model, or of no particular one."""

    def __init__(self) -> None:
        self.lines = [CountedLine(tier) for tier in Tier]
        self.buckets: dict[WorkerId | None, dict[Shape, Bucket]] = {}
        self.rate = DrainRate()

    def bucket(self, shape: Shape) -> Bucket | None:
        return self.buckets.get(shape.pin_worker, {}).get(shape)

    def make_bucket(self, shape: Shape) -> Bucket:
        shapes = self.buckets.setdefault(shape.pin_worker, {})
        known = shapes.get(shape)
        if known is None:
            known = shapes[shape] = Bucket()
        return known

    def drop_bucket(self, shape: Shape) -> None:
        shapes = self.buckets[shape.pin_worker]
        del shapes[shape]
        if not shapes:
            del self.buckets[shape.pin_worker]

    def shapes(self) -> Iterator[Shape]:
        for shapes in self.buckets.values():
            yield from shapes


class _Waiting:
    __slots__ = ("batch", "flow", "held", "key", "shape")

    def __init__(self, key: QueueKey, shape: Shape, flow: Flow, batch: bool, held: bool) -> None:
        self.key = key
        self.shape = shape
        self.flow = flow
        self.batch = batch
        self.held = held


class Queue:
    """All waiting jobs. `held` ones (backing off) keep their place but are not offered."""

    def __init__(self) -> None:
        self._lanes: dict[ModelId | None, Lane] = {None: Lane()}
        self._waiting: dict[JobId, _Waiting] = {}
        self._batch: SortedKeys[tuple[float, int, JobId]] = SortedKeys()
        self._background: SortedKeys[tuple[float, int, JobId]] = SortedKeys()
        self.shares = Shares()
        self.rate = DrainRate()

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, job_id: JobId) -> bool:
        return job_id in self._waiting

    def lane(self, model: ModelId | None) -> Lane:
        known = self._lanes.get(model)
        if known is None:
            known = self._lanes[model] = Lane()
        return known

    def push(self, key: QueueKey, shape: Shape, flow: Flow = ANYBODY, *, batch: bool, held: bool) -> None:
        """Let a job wait; `batch` ones not of the FIRST tier are the ones `oldest_batch` may name."""
        assert key.job_id not in self._waiting
        batch = batch and key.tier != Tier.FIRST
        waiting = self._waiting[key.job_id] = _Waiting(key, shape, flow, batch, held)
        if key.tier != Tier.FIRST:
            self.shares.arrive(flow, self._rivals(shape.lane, key.tier))
        self._stand(waiting)
        if batch:
            self._batch.add(key[1:])
        if key.tier == Tier.BACKGROUND:
            self._background.add(key[1:])

    def _rivals(self, lane: ModelId | None, tier: Tier) -> list[CountedLine]:
        """The lines of this tier, but for empty ones, in which those stand who want the same model or any."""
        lanes = self._lanes.values() if lane is None else (self.lane(lane), self._lanes[None])
        return [line for rival in lanes if (line := rival.lines[tier])]

    def _standing(self, waiting: _Waiting) -> tuple[Share, Flow]:
        """As whom the job stands: the FIRST tier knows no tenants."""
        if waiting.key.tier == Tier.FIRST:
            everybody = self.shares.everybody
            return everybody, Flow(everybody.tenant, None)
        return self.shares.of(waiting.flow.tenant), waiting.flow

    def _stand(self, waiting: _Waiting) -> None:
        share, flow = self._standing(waiting)
        lane = self.lane(waiting.shape.lane)
        lane.lines[waiting.key.tier].add(share, flow.session, waiting.key)
        if not waiting.held:
            lane.make_bucket(waiting.shape).add(share, flow.session, waiting.key)

    def _leave(self, waiting: _Waiting) -> None:
        share, flow = self._standing(waiting)
        self.lane(waiting.shape.lane).lines[waiting.key.tier].remove(share, flow.session, waiting.key)
        if not waiting.held:
            self._withdraw(waiting)

    def _offer(self, waiting: _Waiting) -> None:
        share, flow = self._standing(waiting)
        self.lane(waiting.shape.lane).make_bucket(waiting.shape).add(share, flow.session, waiting.key)

    def _withdraw(self, waiting: _Waiting) -> None:
        share, flow = self._standing(waiting)
        lane = self.lane(waiting.shape.lane)
        bucket = lane.make_bucket(waiting.shape)
        bucket.lines[waiting.key.tier].remove(share, flow.session, waiting.key)
        bucket.jobs -= 1
        if not bucket.jobs:
            lane.drop_bucket(waiting.shape)

    def offer(self, job_id: JobId) -> None:
        """A held job may be placed again."""
        waiting = self._waiting[job_id]
        if waiting.held:
            waiting.held = False
            self._offer(waiting)

    def hold(self, job_id: JobId) -> None:
        """An offered job keeps its place, but is not offered any more."""
        waiting = self._waiting[job_id]
        if not waiting.held:
            self._withdraw(waiting)
            waiting.held = True

    def reshape(self, job_id: JobId, shape: Shape) -> None:
        """The job demands something else of the same lane now; its place stays."""
        waiting = self._waiting[job_id]
        assert shape.lane == waiting.shape.lane
        if shape != waiting.shape and not waiting.held:
            self._withdraw(waiting)
            waiting.shape = shape
            self._offer(waiting)
        waiting.shape = shape

    def of_lane(self, model: ModelId | None) -> list[JobId]:
        """All that wait for this model."""
        return [key.job_id for line in self.lane(model).lines for key in line]

    def remove(self, job_id: JobId) -> None:
        """The job waits no more."""
        waiting = self._waiting.pop(job_id)
        self._leave(waiting)
        key = waiting.key
        if key.tier != Tier.FIRST:
            self.shares.depart(waiting.flow)
        if waiting.batch:
            self._batch.remove(key[1:])
        if key.tier == Tier.BACKGROUND:
            self._background.remove(key[1:])

    def next_promotion(self) -> float | None:
        """When the first of the background jobs will have waited off its handicap."""
        return self._background.first()[0] if self._background else None

    def promote(self, now: float) -> None:
        """Background jobs whose time has come stand with the normal ones from now on."""
        while self._background and self._background.first()[0] <= now:
            since, sequence, job_id = self._background.first()
            waiting = self._waiting[job_id]
            self._background.remove((since, sequence, job_id))
            self._leave(waiting)
            waiting.key = waiting.key._replace(tier=Tier.NORMAL)
            self._stand(waiting)

    def entry(self, job_id: JobId) -> tuple[QueueKey, Shape, bool] | None:
        """Key, shape and whether it is held; None when the job does not wait."""
        waiting = self._waiting.get(job_id)
        return None if waiting is None else (waiting.key, waiting.shape, waiting.held)

    def turn(self, job_id: JobId) -> Turn:
        """Where a waiting job stands among all, at this moment."""
        waiting = self._waiting[job_id]
        share, flow = self._standing(waiting)
        return Turn(waiting.key.tier, share.counter, share.session(flow.session).counter, waiting.key)

    def leads(self, job_id: JobId) -> bool:
        """Nobody with the same demands goes before this offered job, and it is not parked."""
        waiting = self._waiting[job_id]
        bucket = self.lane(waiting.shape.lane).bucket(waiting.shape)
        first = None if bucket is None else bucket.first()
        return first is not None and first.key == waiting.key

    def left(self, lane: ModelId | None, now: float) -> None:
        """A job of this lane got its worker: learn the speed."""
        self.lane(lane).rate.note(now)
        self.rate.note(now)

    def heads(self, model: ModelId, worker_id: WorkerId) -> Iterator[tuple[Turn, Shape]]:
        """The first job of every bucket that this worker of this model might serve."""
        for lane in (self._lanes.get(model), self._lanes[None]):
            if lane is None:
                continue
            for pin in (None, worker_id):
                for shape, bucket in lane.buckets.get(pin, {}).items():
                    first = bucket.first()
                    if first is not None:
                        yield first, shape

    def next_of(self, share: Share, shape: Shape) -> JobId | None:
        """The tenant's next job of this shape; None when none is offered."""
        bucket = self.lane(shape.lane).bucket(shape)
        lines = [] if bucket is None else [line for line in bucket.lines if line in share.lines]
        return lines[0].head_of(share.tenant).job_id if lines else None

    def leading(self, share: Share) -> list[JobId]:
        """The tenant's next job of every line it stands in, those of whole lanes included; each once."""
        return list(dict.fromkeys(line.head_of(share.tenant).job_id for line in share.lines))

    def position(self, job_id: JobId) -> int | None:
        """How many jobs go ahead of it that want its model or any (see places); None when it does not wait."""
        waiting = self._waiting.get(job_id)
        if waiting is None:
            return None
        return self._ahead(self._standing(waiting)[1], self.turn(job_id), waiting.shape.lane)

    def position_of_newcomer(self, key: QueueKey, flow: Flow, lane: ModelId | None) -> int:
        """The place that a job with this key, not of the FIRST tier, would get."""
        counters = self.shares.on_arrival(flow, self._rivals(lane, key.tier))
        return self._ahead(flow, Turn(key.tier, *counters, key), lane)

    def _ahead(self, flow: Flow, turn: Turn, lane: ModelId | None) -> int:
        before = sum(len(line) for tier in TIERS[: turn.tier] for line in self._rivals(lane, tier))
        return before + ahead(self._rivals(lane, turn.tier), flow, turn)

    def eta_s(self, job_id: JobId, position: int, now: float) -> float | None:
        """Seconds until its turn at the lane's learned speed."""
        return self.eta_in(self._waiting[job_id].shape.lane, position, now)

    def eta_in(self, lane: ModelId | None, position: int, now: float) -> float | None:
        """Seconds until the turn of who has this place in the lane, at its learned speed."""
        rate = self.lane(lane).rate.per_s(now)
        return None if rate is None else (position + 1) / rate

    def oldest_batch(self) -> JobId | None:
        """The batch job that waited longest, continuing ones spared."""
        return self._batch.first()[2] if self._batch else None

    def waits_for(self, model: ModelId) -> int:
        """How many wait for this very model, held ones included."""
        lane = self._lanes.get(model)
        return 0 if lane is None else sum(len(line) for line in lane.lines)

    def shapes(self) -> list[Shape]:
        """Every shape that somebody is offered with."""
        return [shape for lane in self._lanes.values() for shape in lane.shapes()]

    def pinned(self) -> list[Shape]:
        """Every shape with a pin that somebody waits with."""
        return [shape for shape in self.shapes() if shape.pin_worker or shape.pin_pool]

    def members(self, shape: Shape) -> list[JobId]:
        """The offered jobs of one shape, parked ones too, in order."""
        bucket = self.lane(shape.lane).bucket(shape)
        if bucket is None:
            return []
        return sorted((key.job_id for line in bucket.lines for key in line), key=self.turn)
