"""Which worker gets a job: feasible, then ranked, then chosen, and every refusal keeps its reason.

Feasible means open (see fleet) and fitting the job's shape. A worker that fits only softly (it failed this job last,
or may be too small) is used when no ready worker fits fully, be it busy or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import NamedTuple

from llorch.base.errors import PoolUnavailable, WorkerUnavailable
from llorch.base.ids import ModelId, PoolId, WorkerId
from llorch.core.fleet import Fleet, LoadKey, Worker
from llorch.core.job import Wishes
from llorch.core.policy import Candidate
from llorch.core.prefixes import CROWD, Held
from llorch.core.queue import Shape
from llorch.core.worker import WorkerState

CANDIDATES_MAX = 8
# One that sent so many away in a row, whatever it says of itself, is not what second choices stand back for.
REFUSALS_AWAITED = 2
Reasons = list[tuple[str, str]]


class Leaning(NamedTuple):
    """What a job would like but does not demand: pools, the worker of its session, those that hold its beginning."""

    pools: tuple[str, ...] = ()
    affine: WorkerId | None = None
    held: Held = Held()

    def told(self, worker: Worker) -> str:
        """What speaks for this worker, for `explain`; empty when it holds nothing."""
        parts = self.held.parts_on(worker.id)
        return f", holds {parts} of {self.held.total} prefix parts" if parts else ""


class Found(NamedTuple):
    """Workers that can take a job now, best first; reasons name others, at most as many as asked for."""

    ranked: list[Worker]
    reasons: Reasons


class Problem(NamedTuple):
    """Why a pin cannot be met: a code of base.errors and a message."""

    code: str
    message: str


def hard_misfit(shape: Shape, worker: Worker) -> str | None:
    """Why this worker can never serve the shape, whatever its load."""
    spec = worker.spec
    if shape.lane is not None and spec.model != shape.lane:
        return f"serves {spec.model}"
    if shape.pin_worker is not None and spec.worker_id != shape.pin_worker:
        return "the job is pinned to another worker"
    if shape.pin_pool is not None and spec.pool != shape.pin_pool:
        return "the job is pinned to another pool"
    if shape.only_pools and spec.pool not in shape.only_pools:
        return f"pool {spec.pool} is not preferred and fallback is off"
    if spec.pool in shape.avoid_pools:
        return f"pool {spec.pool} is to be avoided"
    if shape.exact and shape.context > spec.context_length:
        return f"context {spec.context_length} is too short"
    return None


def soft_misfit(shape: Shape, worker: Worker) -> str | None:
    """Why this worker is only a second choice."""
    if shape.shun == worker.id:
        return "failed this job last time"
    if shape.context > worker.spec.context_length:
        return f"context {worker.spec.context_length} may be too short"
    return None


def fits(shape: Shape, worker: Worker) -> bool:
    return hard_misfit(shape, worker) is None and soft_misfit(shape, worker) is None


def usable(fleet: Fleet, worker: Worker) -> bool:
    """Ready, and its pool is not draining."""
    return worker.state is WorkerState.READY and not fleet.pools.get(worker.spec.pool, False)


def better_known(fleet: Fleet, shape: Shape) -> bool:
    """Some ready worker, perhaps busy, fits fully: second choices have to stand back."""
    return any(
        fits(shape, worker) and usable(fleet, worker) and worker.refusals < REFUSALS_AWAITED
        for worker in fleet.ready(shape.lane)
    )


def serveable(fleet: Fleet, shape: Shape) -> bool:
    """Some ready worker, perhaps busy, could serve this shape at all."""
    return any(hard_misfit(shape, worker) is None and usable(fleet, worker) for worker in fleet.ready(shape.lane))


def takes(fleet: Fleet, shape: Shape, worker: Worker) -> bool:
    """This open worker may get a job of this shape now."""
    if hard_misfit(shape, worker) is not None:
        return False
    return soft_misfit(shape, worker) is None or not better_known(fleet, shape)


class Chooser:
    """Runs the first two steps for one job: the choice itself is the policy's."""

    def __init__(self, fleet: Fleet, reasons_max: int) -> None:
        self._fleet = fleet
        self._reasons_max = reasons_max

    def find(self, shape: Shape, leaning: Leaning, now: float) -> Found:
        """Who could take the job now, ranked; or nobody, and why. Deterministic: ties go to the smaller id."""
        reasons: Reasons = []
        feasible = self._feasible(shape, leaning, reasons)
        if not feasible:
            return Found([], self._why_none(shape, reasons, now))
        return Found(self._rank(feasible, shape, leaning), reasons)

    def passed_over(self, found: Found, leaning: Leaning, chosen: Worker) -> Reasons:
        """The reasons found, and those that were not taken though they could have been."""
        reasons = list(found.reasons)
        why = "another ranked better" if chosen is found.ranked[0] else "the policy chose another"
        for other in found.ranked:
            if other is not chosen and len(reasons) < self._reasons_max:
                reasons.append((other.id, f"could{leaning.told(other)}, but {why}"))
        return reasons

    def _feasible(self, shape: Shape, leaning: Leaning, reasons: Reasons) -> list[Worker]:
        """Open fitting workers. With wishes for pools all are looked at, else the liked ones and the first by load."""
        first: list[Worker] = []
        second: list[Worker] = []
        for worker in self._in_order(shape, leaning):
            reason = hard_misfit(shape, worker)
            if reason is None:
                soft = soft_misfit(shape, worker)
                (first if soft is None else second).append(worker)
                reason = soft
            if reason is not None and len(reasons) < self._reasons_max:
                reasons.append((worker.id, reason))
            if len(first) >= CANDIDATES_MAX and not leaning.pools:
                break
        if first or not second or better_known(self._fleet, shape):
            return first
        reasons[:] = [(name, reason) for name, reason in reasons if name not in {worker.id for worker in second}]
        return second

    def _in_order(self, shape: Shape, leaning: Leaning) -> Iterator[Worker]:
        """Open workers, each once: the pinned one alone, or the liked ones and then all by load."""
        if shape.pin_worker is not None:
            yield from self._if_open(shape.pin_worker)
            return
        seen: set[WorkerId] = set()
        for worker in chain(self._liked(shape, leaning), self._fleet.open(shape.lane)):
            if worker.id not in seen:
                seen.add(worker.id)
                yield worker

    def _liked(self, shape: Shape, leaning: Leaning) -> Iterator[Worker]:
        """Open workers that are looked at whatever their load: the affine one, then those that hold most."""
        if leaning.affine is not None:
            yield from self._if_open(leaning.affine)
        looked_at: set[WorkerId] = set()
        for _, holders in leaning.held.levels:
            if len(holders) > CROWD:
                # Some of so many are among the least loaded; shorter beginnings have even more holders.
                yield from (w for w in islice(self._fleet.open(shape.lane), CROWD) if w.id in holders)
                return
            yield from self._open_by_load(shape, [name for name in holders if name not in looked_at])
            looked_at.update(holders)

    def _open_by_load(self, shape: Shape, names: list[WorkerId]) -> Iterator[Worker]:
        workers = [self._fleet.workers[name] for name in names]
        keys = [w.open_key for w in workers if w.open_key is not None and shape.lane in (None, w.spec.model)]
        return (self._fleet.workers[key[2]] for key in sorted(keys))

    def _if_open(self, worker_id: WorkerId) -> Iterator[Worker]:
        worker = self._fleet.workers.get(worker_id)
        if worker is not None and worker.open_key is not None:
            yield worker

    def _rank(self, workers: list[Worker], shape: Shape, leaning: Leaning) -> list[Worker]:
        def key(worker: Worker) -> tuple[bool, int, bool, int, int, LoadKey]:
            assert worker.open_key is not None
            pools = leaning.pools
            pool = pools.index(worker.spec.pool) if worker.spec.pool in pools else len(pools)
            # Among workers that are all too small for an upper bound, the largest is the likeliest to do.
            context = worker.spec.context_length
            room = 0 if context >= shape.context else -context
            parts = leaning.held.parts_on(worker.id)
            return (shape.shun == worker.id, pool, worker.id != leaning.affine, room, -parts, worker.open_key)

        return sorted(workers, key=key)

    def candidate(self, worker: Worker, shape: Shape, leaning: Leaning) -> Candidate:
        """An open worker as the policy sees it."""
        assert worker.open_key is not None
        return Candidate(
            worker_id=worker.id,
            pool=worker.spec.pool,
            model=worker.spec.model,
            slots_free=worker.slots_free,
            load=worker.open_key[0],
            tokens_per_s=worker.load.tokens_per_s,
            preferred=worker.spec.pool in leaning.pools,
            affine=worker.id == leaning.affine,
            prefix_parts=leaning.held.parts_on(worker.id),
            second_choice=soft_misfit(shape, worker) is not None,
            labels=self._fleet.labels.get(worker.spec.pool, ()),
        )

    def _why_none(self, shape: Shape, reasons: Reasons, now: float) -> Reasons:
        """The reasons of open workers that do not fit, then why the rest is shut, bounded."""
        told = {worker_id for worker_id, _ in reasons}
        room = self._reasons_max - len(reasons)
        for worker in islice(self._fleet.serving(shape.lane), self._reasons_max):
            if room <= 0:
                break
            if worker.id not in told:
                room -= 1
                reason = hard_misfit(shape, worker) or self._fleet.shut(worker, now) or "not asked"
                reasons.append((worker.id, reason))
        return reasons


def pin_problem(fleet: Fleet, wishes: Wishes, model: ModelId | None) -> Problem | None:
    """Why the pins of a job cannot be met by any worker as things stand; None when they can (perhaps later)."""
    if wishes.pin_pool is not None:
        problem = _pool_problem(fleet, wishes, PoolId(wishes.pin_pool))
        if problem is not None:
            return problem
    if wishes.pin_worker is None:
        return None
    name = wishes.pin_worker
    worker = fleet.workers.get(WorkerId(name))
    why = "is not known"
    if worker is not None:
        spec = worker.spec
        if worker.state is not WorkerState.READY:
            why = f"is {worker.state.value}"
        elif not spec.protocol_ok:
            why = f"speaks protocol {spec.protocol}"
        elif model is not None and spec.model != model:
            why = f"serves {spec.model}"
        elif wishes.pin_pool is not None and spec.pool != wishes.pin_pool:
            why = f"is on pool {spec.pool}"
        elif spec.pool in wishes.avoid_pools:
            why = f"is on pool {spec.pool}, which is to be avoided"
        elif fleet.pools.get(spec.pool, False):
            return Problem(PoolUnavailable.code, f"pool {spec.pool} is draining")
        else:
            return None
    return Problem(WorkerUnavailable.code, f"worker {name} {why}")


def _pool_problem(fleet: Fleet, wishes: Wishes, pool: PoolId) -> Problem | None:
    if fleet.pools.get(pool, False):
        return Problem(PoolUnavailable.code, f"pool {pool} is draining")
    if pool in wishes.avoid_pools:
        return Problem(PoolUnavailable.code, f"pool {pool} is pinned and avoided")
    known = pool in fleet.pools or pool in fleet.loadable_pools
    if not known and not any(worker.spec.pool == pool for worker in fleet.ready(None)):
        return Problem(PoolUnavailable.code, f"pool {pool} is not known and has no worker")
    return None
