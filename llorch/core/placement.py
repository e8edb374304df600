"""Which worker gets a job: feasible, then ranked, then chosen, and every refusal keeps its reason.

Feasible means open (see fleet) and fitting the job's shape. A worker that fits only softly (it failed this job last,
or may be too small) is used when no ready worker fits fully, be it busy or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from llorch.base.errors import PoolUnavailable, WorkerUnavailable
from llorch.base.ids import ModelId, PoolId, WorkerId
from llorch.core.fleet import Fleet, LoadKey, Worker
from llorch.core.job import Wishes
from llorch.core.policy import Candidate, Policy, TaskView
from llorch.core.queue import Shape
from llorch.core.worker import WorkerState

CANDIDATES_MAX = 8
Reasons = list[tuple[str, str]]


class Choice(NamedTuple):
    """The chosen worker, None when none could be; reasons name others, at most as many as asked for."""

    worker: Worker | None
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
    return any(fits(shape, worker) and usable(fleet, worker) for worker in fleet.ready(shape.lane))


def serveable(fleet: Fleet, shape: Shape) -> bool:
    """Some ready worker, perhaps busy, could serve this shape at all."""
    return any(hard_misfit(shape, worker) is None and usable(fleet, worker) for worker in fleet.ready(shape.lane))


def takes(fleet: Fleet, shape: Shape, worker: Worker) -> bool:
    """This open worker may get a job of this shape now."""
    if hard_misfit(shape, worker) is not None:
        return False
    return soft_misfit(shape, worker) is None or not better_known(fleet, shape)


class Chooser:
    """Runs the three steps for one job."""

    def __init__(self, fleet: Fleet, policy: Policy, reasons_max: int) -> None:
        self._fleet = fleet
        self._policy = policy
        self._reasons_max = reasons_max

    def choose(
        self, task: TaskView, shape: Shape, prefer: tuple[str, ...], affine: WorkerId | None, now: float
    ) -> Choice:
        """A worker for the job, or the reasons why not. Deterministic: ties go to the smaller id."""
        reasons: Reasons = []
        feasible = self._feasible(shape, prefer, affine, reasons)
        if not feasible:
            return Choice(None, self._why_none(shape, reasons, now))
        ranked = self._rank(feasible, shape, prefer, affine)
        candidates = [self._candidate(worker, shape, prefer, affine) for worker in ranked]
        chosen = self._policy.choose_worker(task, candidates)
        worker = next((worker for worker in ranked if worker.id == chosen), ranked[0])
        for other in ranked:
            if other is not worker and len(reasons) < self._reasons_max:
                reasons.append((other.id, "could, but another ranked better"))
        return Choice(worker, reasons)

    def _feasible(
        self, shape: Shape, prefer: tuple[str, ...], affine: WorkerId | None, reasons: Reasons
    ) -> list[Worker]:
        """Open fitting workers. With wishes all are looked at, else the first few by load and the affine one."""
        first: list[Worker] = []
        second: list[Worker] = []
        for worker in self._in_order(shape, affine):
            reason = hard_misfit(shape, worker)
            if reason is None:
                soft = soft_misfit(shape, worker)
                (first if soft is None else second).append(worker)
                reason = soft
            if reason is not None and len(reasons) < self._reasons_max:
                reasons.append((worker.id, reason))
            if len(first) >= CANDIDATES_MAX and not prefer:
                break
        if first or not second or better_known(self._fleet, shape):
            return first
        reasons[:] = [(name, reason) for name, reason in reasons if name not in {worker.id for worker in second}]
        return second

    def _in_order(self, shape: Shape, affine: WorkerId | None) -> Iterator[Worker]:
        """Open workers: the pinned one alone, or the affine one and then all by load."""
        wanted = shape.pin_worker or affine
        near = None if wanted is None else self._fleet.workers.get(wanted)
        if near is not None and near.open_key is not None:
            yield near
        if shape.pin_worker is None:
            for worker in self._fleet.open(shape.lane):
                if worker is not near:
                    yield worker

    def _rank(
        self, workers: list[Worker], shape: Shape, prefer: tuple[str, ...], affine: WorkerId | None
    ) -> list[Worker]:
        def key(worker: Worker) -> tuple[bool, int, bool, int, LoadKey]:
            assert worker.open_key is not None
            pool = prefer.index(worker.spec.pool) if worker.spec.pool in prefer else len(prefer)
            # Among workers that are all too small for an upper bound, the largest is the likeliest to do.
            context = worker.spec.context_length
            room = 0 if context >= shape.context else -context
            return (shape.shun == worker.id, pool, worker.id != affine, room, worker.open_key)

        return sorted(workers, key=key)

    def _candidate(self, worker: Worker, shape: Shape, prefer: tuple[str, ...], affine: WorkerId | None) -> Candidate:
        assert worker.open_key is not None
        return Candidate(
            worker_id=worker.id,
            pool=worker.spec.pool,
            model=worker.spec.model,
            slots_free=worker.slots_free,
            load=worker.open_key[0],
            tokens_per_s=worker.load.tokens_per_s,
            preferred=worker.spec.pool in prefer,
            affine=worker.id == affine,
            second_choice=soft_misfit(shape, worker) is not None,
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
    if pool not in fleet.pools and not any(worker.spec.pool == pool for worker in fleet.ready(None)):
        return Problem(PoolUnavailable.code, f"pool {pool} is not known and has no worker")
    return None
