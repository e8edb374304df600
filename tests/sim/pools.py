"""Pools of the simulated world: hosts with memory that start and stop fake workers by command, and fail at it.

One command at a time on each pool, as the actuator promises. What a worker really takes is known here and nowhere else;
the checkers judge the brain's commands by it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from sim.fake_worker import FakeWorker

from llorch.base.ids import ModelId, PoolId, WorkerId
from llorch.core import effects as to_do
from llorch.core import events as happened
from llorch.core.demand_settings import DemandRead, DemandSettings, ModelLimits
from llorch.core.job import JobSpec
from llorch.core.pool_facts import RAM, Bank, ModelThere, Place, PoolRead, WorkerThere
from llorch.core.worker import WorkerSpec

if TYPE_CHECKING:
    from sim.world import World

SETTINGS = DemandSettings(
    spawn_limit_s=5.0,
    spawn_failures_max=4,
    spawn_backoff_first_s=0.5,
    spawn_backoff_max_s=2.0,
    stop_limit_s=3.0,
    stop_backoff_s=1.0,
    announce_limit_s=3.0,
    hopeless_s=2.0,
    residency_min_s=1.5,
    swap_age_max_s=4.0,
    scale_out_eta_s=3.0,
    wake_limit_s=6.0,
    wake_backoff_s=4.0,
    facts_old_s=1.0,
    look_every_s=0.5,
    overhead_bytes=0,
)
Command = to_do.SpawnWorker | to_do.StopWorker | to_do.ReadPool


@dataclass
class FakePool:
    """A host. `processes` take memory, whether they serve, load, or hang."""

    name: PoolId
    total: int
    models: dict[ModelId, int]
    address: str
    processes: dict[WorkerId, FakeWorker] = field(default_factory=dict)
    models_of: dict[WorkerId, ModelId] = field(default_factory=dict)
    commands: deque[Command] = field(default_factory=deque)
    busy: bool = False
    asleep: bool = False
    wakeable: bool = False
    down_until: float = 0.0
    sound: bool = False
    began: int = 0

    @property
    def used(self) -> int:
        """What its processes really take."""
        return sum(self.models[self.models_of[worker_id]] for worker_id in self.processes)

    def facts(self, *, reachable: bool) -> PoolRead:
        """What its command line would say of it."""
        if not reachable:
            return PoolRead(self.name, reachable=False, wakeable=self.wakeable, reason="no answer")
        return PoolRead(
            self.name,
            wakeable=self.wakeable,
            banks=(Bank(RAM, self.total, self.total - self.used),),
            places=(Place("cpu", None, RAM),),
            models=tuple(ModelThere(model, size, size) for model, size in self.models.items()),
            workers=tuple(WorkerThere(w, self.models_of[w], "cpu") for w in self.processes),
        )


class FakePools:
    """The actuator and its hosts."""

    def __init__(self, world: World, pools: list[FakePool], limits: dict[ModelId, ModelLimits]) -> None:
        self.world = world
        self.pools = {pool.name: pool for pool in pools}
        self.limits = limits
        self.crashes = 0

    def opening(self) -> DemandRead:
        """What a brain is told first."""
        return DemandRead(SETTINGS, self.limits, ModelLimits(ttl_s=3.0), tuple(self.pools))

    def look_around(self) -> None:
        """Read every pool, as at the start."""
        for pool in self.pools.values():
            self.give(pool, to_do.ReadPool(pool.name))

    def carry_out(self, effect: to_do.Effect) -> None:
        """A command for a pool; others are not ours."""
        if isinstance(effect, to_do.WakePool):
            pool = self.pools[effect.pool]
            if pool.sound or self.world.rng.random() < 0.7:
                self.world.later(self.world.rng.uniform(0.5, 3.0), partial(setattr, pool, "asleep", False))
        elif isinstance(effect, to_do.SpawnWorker | to_do.StopWorker | to_do.ReadPool):
            self.give(self.pools[effect.pool], effect)

    def give(self, pool: FakePool, command: Command) -> None:
        pool.commands.append(command)
        if not pool.busy:
            self._next(pool)

    def crash(self) -> None:
        """orchestratord dies, and with it every command that is under way; what a command began may live on."""
        self.crashes += 1
        for pool in self.pools.values():
            pool.commands.clear()
            pool.busy = False

    def _reached(self, pool: FakePool) -> bool:
        return not pool.asleep and pool.down_until <= self.world.now

    def _next(self, pool: FakePool) -> None:
        pool.busy = bool(pool.commands)
        if pool.commands:
            pool.began += 1
            begin = partial(self._begin, pool, pool.commands.popleft(), self.crashes)
            self.world.later(self.world.soon(), begin)

    def _begin(self, pool: FakePool, command: Command, crashes: int) -> None:
        if crashes != self.crashes:
            return
        if isinstance(command, to_do.ReadPool):
            self._done(pool, crashes)
        elif isinstance(command, to_do.StopWorker):
            self._stop(pool, command, crashes)
        elif self._reached(pool):
            self._spawn(pool, command, crashes)
        else:
            self._tell(happened.SpawnFailed(command.worker_id, "SSH_FAILED", "no answer"), crashes)
            self._done(pool, crashes)

    def _tell(self, event: happened.Event, crashes: int) -> None:
        if crashes == self.crashes:
            self.world.tell(event)

    def _done(self, pool: FakePool, crashes: int) -> None:
        """A command is over: the facts after it, then the next one."""
        if crashes == self.crashes:
            self.world.tell(pool.facts(reachable=self._reached(pool)))
            self._next(pool)

    # -- spawning

    def _spawn(self, pool: FakePool, command: to_do.SpawnWorker, crashes: int) -> None:
        rng, worker_id = self.world.rng, command.worker_id
        self._tell(happened.SpawnStarted(worker_id), crashes)
        if pool.models[command.model] > pool.total - pool.used:
            self._fail(pool, command, "INSUFFICIENT_MEMORY", crashes)
            return
        number = pool.began
        spec = WorkerSpec(
            worker_id=worker_id,
            url=f"http://{pool.address}:{9000 + number}",
            model=command.model,
            backend="cpu",
            pool=PoolId(pool.address),
            slots_total=rng.randint(1, 2),
            context_length=200,
            vram_bytes=0,
            version="1",
            protocol=1,
        )
        worker = FakeWorker(spec, alive=False)
        pool.processes[worker_id], pool.models_of[worker_id] = worker, command.model
        mood = 1.0 if pool.sound else rng.random()
        load_s = rng.uniform(0.2, 1.5)
        self.world.later(load_s / 2, lambda: self._tell(happened.SpawnProgressed(worker_id, 0.5), crashes))
        if mood < 0.12:  # it dies while loading
            self.world.later(load_s, lambda: self._fail(pool, command, "HOST_ERROR", crashes))
        elif mood < 0.2:  # it hangs, until its limit
            self.world.later(command.limit_s, lambda: self._fail(pool, command, "HOST_ERROR", crashes))
        elif mood < 0.26:  # the command breaks off, the worker comes up all the same
            self.world.later(load_s, lambda: self._up(pool, worker, crashes))
            failed = happened.SpawnFailed(worker_id, "SSH_FAILED", "broke off")
            self.world.later(load_s * 0.7, lambda: self._end(pool, failed, crashes))
        elif mood < 0.32:  # it comes up and cannot reach us
            worker.mute = True
            self.world.later(load_s, lambda: self._up(pool, worker, crashes))
            self.world.later(load_s, lambda: self._end(pool, happened.SpawnReady(worker_id), crashes))
        else:
            self.world.later(load_s, lambda: self._up(pool, worker, crashes))
            self.world.later(load_s + 0.01, lambda: self._end(pool, happened.SpawnReady(worker_id), crashes))

    def _end(self, pool: FakePool, event: happened.Event, crashes: int) -> None:
        self._tell(event, crashes)
        self._done(pool, crashes)

    def _fail(self, pool: FakePool, command: to_do.SpawnWorker, code: str, crashes: int) -> None:
        """The command says so and leaves nothing behind, even when nobody listens any more."""
        pool.processes.pop(command.worker_id, None)
        self._end(pool, happened.SpawnFailed(command.worker_id, code, "as told"), crashes)

    def _up(self, pool: FakePool, worker: FakeWorker, crashes: int) -> None:
        if worker.spec.worker_id not in pool.processes:
            return
        if crashes != self.crashes and self.world.rng.random() < 0.5:  # the killed command's worker dies with it
            del pool.processes[worker.spec.worker_id]
            return
        self.world.workers.append(worker)
        self.world.start(worker)

    # -- stopping

    def _stop(self, pool: FakePool, command: to_do.StopWorker, crashes: int) -> None:
        rng = self.world.rng
        if not self._reached(pool) or (not pool.sound and rng.random() < 0.15):
            self._end(pool, happened.StopFailed(command.worker_id, "as told"), crashes)
            return
        worker = pool.processes.get(command.worker_id)
        if worker is not None:
            self.world.kill(worker)

        def gone() -> None:
            pool.processes.pop(command.worker_id, None)
            self._end(pool, happened.WorkerStopped(command.worker_id), crashes)

        self.world.later(rng.uniform(0.05, 0.5), gone)

    def could(self, spec: JobSpec) -> bool:
        """Some pool that the job accepts has its model, and memory that pinned and kept models leave."""
        wishes = spec.wishes
        for pool in self.pools.values():
            stays = {model for model, limits in self.limits.items() if limits.pinned or limits.replicas_min}
            kept = stays - {spec.model}
            room = pool.total - sum(pool.models.get(model, 0) for model in kept)
            named = wishes.pin_pool in (None, pool.name) and pool.name not in wishes.avoid_pools
            only = wishes.allow_fallback or not wishes.prefer_pools or pool.name in wishes.prefer_pools
            reached = not pool.asleep and pool.down_until <= self.world.now
            if named and only and reached and spec.model in pool.models and pool.models[spec.model] <= room:
                return True
        return False

    # -- faults

    def die(self, worker: FakeWorker) -> None:
        """A worker that was killed takes no memory any more."""
        for pool in self.pools.values():
            pool.processes.pop(worker.spec.worker_id, None)

    def mend(self) -> None:
        """The faults stop: every host answers, and spawning works."""
        for pool in self.pools.values():
            pool.sound, pool.down_until = True, 0.0
            for worker in pool.processes.values():
                if worker.mute:
                    worker.mute = False
                    self.world.announce(worker)
