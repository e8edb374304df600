"""Judges of a history, independent of the brain's code: they see what was decided, committed and carried out."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sim.tenancy import Books
from sim.violation import Violation

from llorch.base.ids import JobId, ModelId, WorkerId
from llorch.core import effects as to_do
from llorch.core import events as happened
from llorch.core.brain import BrainSettings
from llorch.core.effects import Effect, Record
from llorch.core.events import Event
from llorch.core.job import JobRecord, JobSpec, JobState, Priority
from llorch.core.policy import Hook
from llorch.core.worker import WorkerState

if TYPE_CHECKING:
    from sim.world import FakeWorker, World

# A busy worker may be left alone for a second, and a heartbeat takes up to another to tell that it is free.
IDLE_MAX_S = 2.5

FAILURES = {
    "WORKER_LOST",
    "INFERENCE_FAILED",
    "QUEUE_TIMEOUT",
    "TIMEOUT",
    "CONTEXT_LENGTH_EXCEEDED",
    "WORKER_UNAVAILABLE",
    "POOL_UNAVAILABLE",
    "QUEUE_FULL",
}
UNLOADABLE = {"WORKER_UNAVAILABLE", "INSUFFICIENT_MEMORY", "QUEUE_TIMEOUT"}
# After the faults: until hung processes are found, a residency, an aged want, a load or two, the jobs ahead.
MENDED_S = 8.0


class Checkers:
    """Each method is told one kind of step; a broken promise raises Violation."""

    def __init__(self, settings: BrainSettings) -> None:
        self.settings = settings
        self.specs: dict[JobId, JobSpec] = {}
        self.answered: Counter[JobId] = Counter()
        self.accepted: set[JobId] = set()
        self.stored: set[JobId] = set()
        self.away: set[JobId] = set()
        self.ended: dict[JobId, JobRecord] = {}
        self.finished: Counter[JobId] = Counter()
        self.idle_since: dict[JobId, float] = {}
        self.seats: dict[tuple[JobId, int], tuple[WorkerId, float | None]] = {}
        self.books = Books()

    def decided(self, event: Event, answer: list[Effect], world: World) -> None:
        """Within one answer: commits stand before what they promise, and no slot is given twice."""
        self.books.decided(event, answer, world)
        kept: set[JobId] = set(world.jobs)
        for effect in answer:
            if isinstance(effect, to_do.Persist) and isinstance(effect.record, JobRecord):
                kept.add(effect.record.spec.job_id)
                self._check_too_long(effect.record, world)
            elif isinstance(effect, to_do.Accept | to_do.Finish | to_do.Dispatch) and effect.job_id not in kept:
                raise Violation(f"{type(effect).__name__} of {effect.job_id} without a Persist before it")
            if isinstance(effect, to_do.CancelAttempt):
                seat = self.seats.get((effect.job_id, effect.attempt))
                if seat is not None:
                    self.seats[effect.job_id, effect.attempt] = (seat[0], world.now + self.settings.cancel_limit_s)
            if isinstance(effect, to_do.Dispatch):
                self._seat(effect, world)
            elif isinstance(effect, to_do.StopWorker):
                self._check_kept(effect, world)
        if isinstance(event, happened.JobSubmitted) and not answer and event.spec.job_id not in self.specs:
            raise Violation(f"{event.spec.job_id} was not answered")

    def _check_too_long(self, record: JobRecord, world: World) -> None:
        job_id = record.spec.job_id
        if record.ending is not None and record.ending.error_code == "CONTEXT_LENGTH_EXCEEDED":
            holders = [w.spec.worker_id for w in world.workers if self._serves(world, job_id, w)]
            if holders:
                raise Violation(f"{job_id} was too long for a worker, but {holders} could hold it")

    def _seat(self, effect: to_do.Dispatch, world: World) -> None:
        self.seats[effect.job_id, effect.attempt] = (effect.worker_id, None)
        taken = [
            key
            for key, (worker_id, free_at) in self.seats.items()
            if worker_id == effect.worker_id and (free_at is None or free_at > world.now)
        ]
        record = world.brain.worker(effect.worker_id) if world.brain is not None else None
        if record is None or len(taken) > record.spec.slots_total:
            raise Violation(f"{len(taken)} attempts on {effect.worker_id}: {taken}")

    def over(self, key: tuple[JobId, int]) -> None:
        """The shell saw the attempt end."""
        self.seats.pop(key, None)

    def crashed(self) -> None:
        self.seats.clear()

    def committed(self, record: Record, world: World) -> None:
        """States in the store: one ending a job, nothing after it."""
        self.books.written(record)
        if not isinstance(record, JobRecord):
            return
        job_id = record.spec.job_id
        self.stored.add(job_id)
        if job_id in self.away:
            raise Violation(f"{job_id} was turned away and is stored")
        if job_id in self.ended:
            raise Violation(f"{job_id} was stored again after its ending")
        if record.state.terminal:
            self.ended[job_id] = record
            self._check_ending(record, world)
        elif record.ending is not None or record.state is JobState.ADMITTING:
            raise Violation(f"{job_id} stored as {record.state.value}")

    def written(self, world: World) -> None:
        """After a whole commit: the waiting line is bounded. A script may hold back one more for each slot."""
        waiting = [r for r in world.jobs.values() if r.state is JobState.QUEUED and r.attempts == 0]
        scripted = Hook.CHOOSE_WORKER in world.scripted_ever
        asked = sum(worker.spec.slots_total for worker in world.workers) if scripted else 0
        if len(waiting) > self.settings.queue_capacity + asked:
            raise Violation(f"{len(waiting)} jobs wait, {self.settings.queue_capacity} and {asked} asked about may")

    def _check_ending(self, record: JobRecord, world: World) -> None:
        job_id, ending = record.spec.job_id, record.ending
        if ending is None or ending.state is not record.state:
            raise Violation(f"{job_id} ended as {record.state.value} with {ending}")
        frames = world.frames.get(job_id, [])
        counted = 0 if ending.result is None else ending.result.tokens_out
        if counted != len(frames):
            raise Violation(f"{job_id} {record.state.value} counts {counted} of {len(frames)} tokens")
        if record.state is JobState.COMPLETED and len(frames) != world.lengths[job_id]:
            raise Violation(f"{job_id} completed with {len(frames)} of {world.lengths[job_id]} frames")
        if record.state is JobState.CANCELLED and job_id not in world.wanted_stop:
            raise Violation(f"{job_id} was cancelled and nobody wanted it")
        unloadable = UNLOADABLE if world.on_demand is not None else set()
        if record.state is JobState.FAILED and ending.error_code not in FAILURES | unloadable:
            raise Violation(f"{job_id} failed with {ending.error_code}")
        if ending.error_code in unloadable and job_id in world.late and world.late_could(job_id):
            raise Violation(f"{job_id} failed with {ending.error_code}, {ending.error_message}")

    def carried_out(self, effect: Effect, world: World) -> None:
        """What left the process: one answer a submission, one Finish a job, never before its commit."""
        if isinstance(effect, to_do.Accept | to_do.Refuse | to_do.Duplicate):
            self.answered[effect.job_id] += 1
            if self.answered[effect.job_id] > 1:
                raise Violation(f"{effect.job_id} was answered twice")
            if isinstance(effect, to_do.Accept):
                self.accepted.add(effect.job_id)
                if effect.job_id not in self.stored:
                    raise Violation(f"{effect.job_id} was accepted before its commit")
            elif effect.job_id in self.stored:
                raise Violation(f"{effect.job_id} was refused and stored")
            if isinstance(effect, to_do.Duplicate) and effect.of not in self.stored:
                raise Violation(f"{effect.job_id} is said to repeat {effect.of}, which was never stored")
        elif isinstance(effect, to_do.SpawnWorker):
            self._check_memory(effect, world)
        elif isinstance(effect, to_do.StopWorker):
            self._check_evicted(effect, world)
        elif isinstance(effect, to_do.Finish):
            self.finished[effect.job_id] += 1
            if self.finished[effect.job_id] > 1:
                raise Violation(f"{effect.job_id} was finished twice")
            if effect.job_id not in self.ended:
                raise Violation(f"{effect.job_id} was finished before its ending was stored")

    def _check_memory(self, effect: to_do.SpawnWorker, world: World) -> None:
        """What really runs or is about to, with the newcomer, fits the pool's memory; two commands never race there."""
        assert world.on_demand is not None
        pool = world.on_demand.pools[effect.pool]
        others = [c for c in pool.commands if isinstance(c, to_do.SpawnWorker)]
        planned = sum(pool.models[command.model] for command in others)
        if pool.used + planned + pool.models[effect.model] > pool.total:
            raise Violation(
                f"{effect.model} does not fit {pool.name}: {pool.used} of {pool.total} taken by {list(pool.processes)}"
            )

    def _check_kept(self, effect: to_do.StopWorker, world: World) -> None:
        """The last worker of a pinned model and the least number stay, as far as the brain knows who is there."""
        assert world.on_demand is not None
        limits = world.on_demand.limits.get(effect.model)
        if limits is None or world.brain is None or effect.cause is to_do.StopCause.STRAY:
            return
        known = [world.brain.worker(worker.spec.worker_id) for worker in world.workers]
        others = [
            worker.spec.worker_id
            for worker in known
            if worker is not None
            and worker.spec.model == effect.model
            and worker.spec.worker_id.startswith("auto-")
            and worker.spec.worker_id != effect.worker_id
            and worker.state is WorkerState.READY
        ]
        if len(others) < max(limits.replicas_min, limits.pinned):
            raise Violation(f"{effect.worker_id} is stopped, and of {effect.model} only {others} are left")

    def _check_evicted(self, effect: to_do.StopWorker, world: World) -> None:
        """No worker is stopped while a job of ours is on it, nor one that somebody else started."""
        assert world.on_demand is not None
        seats = [key for key, (name, free_at) in self.seats.items() if name == effect.worker_id and free_at is None]
        if seats:
            raise Violation(f"{effect.worker_id} is stopped with {seats}")
        if not effect.worker_id.startswith("auto-"):
            raise Violation(f"{effect.worker_id} was not loaded on demand and is stopped")

    def turned_away(self, job_id: JobId) -> None:
        """The client was told that the job could not be stored."""
        self.answered[job_id] += 1
        if self.answered[job_id] > 1:
            raise Violation(f"{job_id} was answered twice")
        self.away.add(job_id)

    def named(self, job_id: JobId, model: ModelId, world: World) -> None:
        """A worker began: the client is told its model once, and no other one goes on."""
        told = world.model_told.setdefault(job_id, model)
        if told != model:
            raise Violation(f"{job_id} began with {told} and goes on with {model}")

    def framed(self, key: tuple[JobId, int], index: int, world: World) -> None:
        """Token indexes reach the client as 0..n without gap or repeat, and nothing after the ending."""
        if index != len(world.frames[key[0]]):
            raise Violation(f"{key} sent frame {index} after {len(world.frames[key[0]])}")
        if self.finished[key[0]]:
            raise Violation(f"{key} sent frame {index} after the end")

    def all_over(self, world: World) -> bool:
        """Every stored job ended, but for batch jobs, not pinned to a worker, that none here could ever serve."""
        left = self.stored - set(self.ended)
        return all(
            self.specs[job_id].priority is Priority.BATCH
            and not self._pinned_to_a_sound_worker(world, job_id)
            and not any(self._eligible(world, job_id, worker) for worker in world.workers)
            for job_id in left
        )

    def _pinned_to_a_sound_worker(self, world: World, job_id: JobId) -> bool:
        pin = self.specs[job_id].wishes.pin_worker
        return pin is not None and not any(w.refuses for w in world.workers if w.spec.worker_id == pin)

    def _eligible(self, world: World, job_id: JobId, worker: FakeWorker) -> bool:
        """Written from the requirements, not from placement: could this worker serve that job?"""
        job, spec = self.specs[job_id], worker.spec
        wishes, model = job.wishes, world.model_told.get(job_id, job.model)
        return (
            worker.alive
            and not worker.refuses
            and spec.protocol_ok
            and model in (None, spec.model)
            and wishes.pin_worker in (None, spec.worker_id)
            and wishes.pin_pool in (None, spec.pool)
            and spec.pool not in wishes.avoid_pools
            and (wishes.allow_fallback or not wishes.prefer_pools or spec.pool in wishes.prefer_pools)
            and world.prompt_tokens(job_id) + (job.max_tokens or 1) <= spec.context_length
        )

    def _serves(self, world: World, job_id: JobId, worker: FakeWorker) -> bool:
        """Eligible, and the brain knows it as ready at this address."""
        record = world.brain.worker(worker.spec.worker_id) if world.brain is not None else None
        return (
            record is not None
            and record.spec.url == worker.spec.url
            and record.state is WorkerState.READY
            and not world.pools.get(worker.spec.pool, False)
            and self._eligible(world, job_id, worker)
        )

    def turned(self, world: World) -> None:
        """After the faults no fresh job waits for long while a worker that could serve it has nothing to do."""
        if world.now < world.began + self.settings.restart_wait_s * 4:
            return
        for job_id, record in world.jobs.items():
            idle = [w for w in world.workers if not w.running and self._serves(world, job_id, w)]
            free = [w for w in idle if not any(seat[0] == w.spec.worker_id for seat in self.seats.values())]
            if record.state is not JobState.QUEUED or record.attempts > 0 or not free:
                self.idle_since.pop(job_id, None)
            elif world.now - self.idle_since.setdefault(job_id, world.now) > IDLE_MAX_S:
                raise Violation(f"{job_id} waits while {[w.spec.worker_id for w in free]} are idle")

    def judge(self, world: World) -> None:
        """The end of the world: nobody waits for ever, no promise is open."""
        if not self.all_over(world):
            left = {job_id: world.jobs[job_id].state.value for job_id in sorted(self.stored - set(self.ended))}
            raise Violation(f"never ended: {left}")
        if not self.accepted <= self.stored:
            raise Violation(f"accepted and lost: {self.accepted - self.stored}")
        self.books.judge(self.ended, len(self.away))
        if world.brain is not None and any(world.brain.job(job_id) for job_id in self.ended):
            raise Violation("an ended job is still live")
