"""A small world around the production brain: shell, store, workers and clients, all moved by one seed and one clock.

The shell here obeys the driver's rules (commit a turn's Persist effects at once and before the rest; what the disk
refuses is owed, with the endings that depend on it; one relay a job) and nothing more; whether the brain keeps its
promises is judged by `checkers.Checkers`, which sees every step.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Protocol

from sim import script
from sim.checkers import Checkers
from sim.fake_worker import FakeWorker
from sim.pools import FakePools

from llorch.base.ids import JobId, ModelId, PoolId, WorkerId
from llorch.core import effects as to_do
from llorch.core import events as happened
from llorch.core.brain import BrainSettings
from llorch.core.effects import Effect
from llorch.core.events import Event
from llorch.core.job import Failure, FailureKind, JobRecord, JobSpec, Result
from llorch.core.policy import Hook
from llorch.core.tenant import DAY_S
from llorch.core.worker import Load, WorkerRecord
from llorch.orchestratord.owed import Owed

CATALOG = happened.CatalogRead(frozenset({ModelId("red"), ModelId("blue")}))
SETTINGS = BrainSettings(
    queue_capacity=6,
    lease_s=2.0,
    queue_timeout_interactive_s=25.0,
    queue_timeout_batch_s=None,
    stall_timeout_s=3.0,
    first_token_timeout_s=3.0,
    count_timeout_s=1.0,
    cancel_limit_s=2.0,
    continue_wait_s=4.0,
    restart_wait_s=6.0,
    announce_every_s=1.0,
    declined_max_s=2.0,
    breaker_failures=2,
    breaker_first_s=0.5,
    breaker_max_s=1.0,
)
FAULTS_END_S = 12.0
ALL_OVER_S = 120.0


class Thinker(Protocol):
    """The brain, or a brain with something broken in it."""

    def decide(self, event: Event, now: float) -> list[Effect]: ...
    def next_wakeup(self) -> float | None: ...
    def worker(self, worker_id: WorkerId) -> WorkerRecord | None: ...
    def job(self, job_id: JobId) -> JobRecord | None: ...


@dataclass
class Relay:
    """The shell's side of one attempt. `open`: its frames reach the client."""

    worker: FakeWorker
    incarnation: int
    open: bool = True
    last_frame_at: float = 0.0


class World:
    """Runs one history. `make_brain` is called at the start and after each crash of orchestratord."""

    def __init__(self, seed: int, make_brain: Callable[[BrainSettings], Thinker]) -> None:
        self.rng = Random(seed)
        # Some histories see midnight (UTC) pass.
        self.now = 1000.0 if seed % 3 else 3 * DAY_S - 5.0
        self.began = self.now
        self.make_brain = make_brain
        self.on_demand: FakePools | None = None
        self.brain: Thinker | None = self._new_brain()
        self.agenda: list[tuple[float, int, Callable[[], object]]] = []
        self.serial = 0
        self.wake_at: float | None = None
        self.inbox: list[Event] = []
        self.jobs: dict[JobId, JobRecord] = {}
        self.worker_records: dict[WorkerId, WorkerRecord] = {}
        self.pools: dict[PoolId, bool] = {}
        self.frames: dict[JobId, list[int]] = {}
        self.lengths: dict[JobId, int] = {}
        self.relays: dict[tuple[JobId, int], Relay] = {}
        self.workers: list[FakeWorker] = []
        self.wanted_stop: set[JobId] = set()
        self.late: set[JobId] = set()
        self.model_told: dict[JobId, ModelId] = {}
        self.disk_full_until = 0.0
        self.script: frozenset[Hook] = frozenset()
        self.scripted_ever: frozenset[Hook] = frozenset()
        self.limits = happened.TenantsRead({})
        self.owed = Owed()
        self.checkers = Checkers(SETTINGS)
        self.history: list[str] = []

    # -- time

    @property
    def faulty(self) -> bool:
        return self.now < self.began + FAULTS_END_S

    def later(self, delay_s: float, what: Callable[[], object]) -> None:
        self.serial += 1
        heapq.heappush(self.agenda, (self.now + delay_s, self.serial, what))

    def soon(self) -> float:
        return self.rng.uniform(0.0005, 0.03)

    def run(self) -> None:
        """Until every accepted job ended after the faults, or too much time passed; then the last judgement."""
        self._wake()
        while self.agenda and self.now < self.began + ALL_OVER_S:
            at, _, what = heapq.heappop(self.agenda)
            self.now = max(self.now, at)
            what()
            if self.late <= set(self.checkers.specs) and self._is_over():
                break
        self.checkers.judge(self)

    def _is_over(self) -> bool:
        return not self.faulty and self.brain is not None and not self.inbox and self.checkers.all_over(self)

    # -- the shell

    def tell(self, event: Event) -> None:
        """An event for the brain; those of a few milliseconds make one turn."""
        if self.brain is None:
            return
        if not self.inbox:
            self.later(self.rng.choice((0.0, 0.001, 0.004)), self._turn)
        self.inbox.append(event)

    def _turn(self) -> None:
        if self.brain is None:
            return
        events, self.inbox = self.inbox, []
        if not events and not self.owed:
            return
        effects: list[Effect] = []
        for event in events:
            self.history.append(f"{self.now - self.began:8.3f} {event}")
            answer = self.brain.decide(event, self.now)
            self.checkers.decided(event, answer, self)
            effects += answer
        fate = self.rng.random() if self.faulty else 1.0
        if fate < 0.004:  # before the commit: only early dispatches got out
            for effect in effects:
                if isinstance(effect, to_do.Dispatch) and effect.early:
                    self._dispatch(effect)
            self.crash()
            return
        unstored = self._commit(effects)
        if fate < 0.008:
            self.crash()
            return
        if unstored is None:
            effects = [*self.owed.settled(), *effects]
        for effect in effects:
            self.history.append(f"             {type(effect).__name__} {effect}")
            if unstored is None:
                self._carry_out(effect)
            else:
                self._carry_out_unstored(effect, unstored)
        self.checkers.turned(self)
        self._wake()

    def _wake(self) -> None:
        """Feed TimePassed when the brain wants to be woken."""
        brain = self.brain
        assert brain is not None
        at = brain.next_wakeup()
        if at is None or at == self.wake_at:
            return
        self.wake_at = at

        def ring() -> None:
            if self.brain is brain and self.wake_at == at:
                self.wake_at = None
                self.tell(happened.TimePassed())

        self.later(max(0.0, at - self.now), ring)

    def _commit(self, effects: list[Effect]) -> set[JobId] | None:
        """Write what is owed and what is new; when the disk refuses, the jobs that should have been let in."""
        records = self.owed.records(effects)
        if records and self.disk_full_until > self.now:
            unstored = {effect.job_id for effect in effects if isinstance(effect, to_do.Accept)}
            self.history.append(f"{self.now - self.began:8.3f} COMMIT REFUSED, not let in: {sorted(unstored)}")
            self.owed.refused(effects, unstored)
            self.later(1.0, self._turn)
            return unstored
        for record in records:
            self._write(record)
        self.checkers.written(self)
        return None

    def _carry_out_unstored(self, effect: Effect, unstored: set[JobId]) -> None:
        """After a refused commit: nobody hears of an end, and who should have been let in is turned away."""
        if isinstance(effect, to_do.Accept) or (isinstance(effect, to_do.Duplicate) and effect.of in unstored):
            self.checkers.turned_away(effect.job_id)
            if isinstance(effect, to_do.Accept):
                if not self.inbox:
                    self.later(0.0, self._turn)
                self.inbox.insert(0, happened.JobNotStored(effect.job_id))
        elif isinstance(effect, to_do.Dispatch) and effect.job_id in unstored and not effect.early:
            key = (effect.job_id, effect.attempt)
            self.later(self.soon(), lambda: self._over(key, Failure(FailureKind.REFUSED)))
        elif not isinstance(effect, to_do.Finish):
            self._carry_out(effect)

    def _write(self, record: to_do.Record) -> None:
        self.checkers.committed(record, self)
        if isinstance(record, JobRecord):
            self.jobs[record.spec.job_id] = record
        elif isinstance(record, WorkerRecord):
            self.worker_records[record.spec.worker_id] = record
        elif isinstance(record, to_do.WorkerForgotten):
            self.worker_records.pop(record.worker_id, None)
        elif isinstance(record, to_do.PoolRecord):
            self.pools[record.pool_id] = record.draining
        elif isinstance(record, to_do.PoolDropped):
            self.pools.pop(record.pool_id, None)

    def _carry_out(self, effect: Effect) -> None:
        self.checkers.carried_out(effect, self)
        if self.on_demand is not None:
            self.on_demand.carry_out(effect)
        if isinstance(effect, to_do.Dispatch):
            self._dispatch(effect)
        elif isinstance(effect, to_do.CancelAttempt):
            self._cancel_attempt(effect)
        elif isinstance(effect, to_do.CountTokens):
            self._count(effect)
        elif isinstance(effect, to_do.Ask):
            self._ask(effect)
        elif isinstance(effect, to_do.DrainWorker):
            for worker in self.workers:
                worker.draining = worker.draining or worker.spec.url == effect.url
        elif isinstance(effect, to_do.Finish):
            for (job_id, _), relay in self.relays.items():
                relay.open = relay.open and job_id != effect.job_id

    def autospawn(self, pools: FakePools) -> None:
        """From the beginning on, these pools load models on demand."""
        self.on_demand = pools
        assert self.brain is not None
        self.brain.decide(pools.opening(), self.now)
        pools.look_around()

    def load_script(self, hooks: frozenset[Hook]) -> None:
        """A script with these hooks takes the place of the one before."""
        self.script = hooks
        self.scripted_ever |= hooks
        self.tell(happened.PolicyLoaded(hooks, "fake.star"))

    def read_tenants(self, limits: happened.TenantsRead) -> None:
        """These limits hold from now on, after a restart as well."""
        self.limits = limits
        self.tell(limits)

    def _ask(self, ask: to_do.Ask) -> None:
        """A script of moods: it answers, fails, says nothing, or comes too late; a sound one after the faults."""
        mood = self.rng.random() if self.faulty else 1.0
        if mood < 0.1:
            return
        event: Event = happened.PolicyAnswered(ask.ask_id, script.answer(self.rng, ask, moody=self.faulty))
        if mood < 0.2:
            event = happened.PolicyFailed(ask.ask_id, "error")
        asker, late = self.brain, self.faulty and mood > 0.9
        self.later(
            self.rng.uniform(0.9, 1.5) if late else self.soon(),
            lambda: self.tell(event) if self.brain is asker else None,  # a script dies with its orchestratord
        )

    def crash(self) -> None:
        """kill -9 of orchestratord: memory gone, streams cut (workers notice and free their slots), then a restart."""
        if self.brain is None:
            return
        self.history.append(f"{self.now - self.began:8.3f} CRASH of orchestratord")
        self.brain = None
        self.wake_at = None
        self.inbox = []
        self.owed = Owed()
        self.checkers.crashed()
        if self.on_demand is not None:
            self.on_demand.crash()
        for key, relay in self.relays.items():
            relay.open = False  # what is on its way may still arrive, but nobody is told
            self.later(self.soon(), partial(relay.worker.running.pop, key, None))
        self.relays = {}
        self.later(self.rng.uniform(0.05, 3.0), self._restart)

    def _new_brain(self) -> Thinker:
        brain = self.make_brain(SETTINGS)
        brain.decide(CATALOG, self.now)
        if self.on_demand is not None:
            brain.decide(self.on_demand.opening(), self.now)
        return brain

    def _restart(self) -> None:
        self.brain = self._new_brain()
        live = sorted((r for r in self.jobs.values() if not r.state.terminal), key=lambda r: r.sequence)
        self.tell(self.limits)
        self.tell(
            replace(
                self.checkers.books.restored(),
                jobs=tuple(live),
                workers=tuple(self.worker_records.values()),
                pools=tuple(happened.PoolRegistered(pool, draining) for pool, draining in self.pools.items()),
                relayed={
                    job_id: happened.Relayed(len(self.frames[job_id]), len(self.frames[job_id]), model)
                    for job_id, model in self.model_told.items()
                },
            )
        )
        self.load_script(self.script)
        if self.on_demand is not None:
            self.on_demand.look_around()

    def _count(self, effect: to_do.CountTokens) -> None:
        worker = self.at(effect.url)
        tokens = self.prompt_tokens(effect.job_id) if worker is not None and worker.alive else None
        if self.rng.random() > 0.2:
            self.later(self.soon(), lambda: self.tell(happened.TokensCounted(effect.job_id, tokens)))

    def prompt_tokens(self, job_id: JobId) -> int:
        return 1 + self.checkers.specs[job_id].prompt_bytes // 3

    def at(self, url: str) -> FakeWorker | None:
        return next((worker for worker in self.workers if worker.spec.url == url and worker.alive), None)

    # -- attempts

    def _dispatch(self, effect: to_do.Dispatch) -> None:
        key = (effect.job_id, effect.attempt)
        worker = self.at(effect.url)
        if worker is None:
            self.later(self.soon(), lambda: self._over(key, Failure(FailureKind.REFUSED)))
            return
        relay = Relay(worker, worker.incarnation, last_frame_at=self.now)
        self.relays[key] = relay
        self.later(self.soon(), lambda: self._arrive(key, relay))
        self.later(SETTINGS.stall_timeout_s, lambda: self._watch_stall(key, relay))

    def _arrive(self, key: tuple[JobId, int], relay: Relay) -> None:
        worker = relay.worker
        if not self._reaches(relay):
            self._broken(key, relay)
        elif worker.hung_until > self.now:
            self.later(worker.hung_until - self.now, lambda: self._arrive(key, relay))
        elif worker.refuses:
            self._over(key, Failure(FailureKind.BUSY, "WORKER_UNAVAILABLE", "no", self.rng.choice((None, 0.0, 0.5))))
        elif worker.draining or len(worker.running) >= worker.spec.slots_total or (worker.liar and self._chance(0.3)):
            self._over(key, Failure(FailureKind.BUSY, "WORKER_UNAVAILABLE", "no slot", self.rng.choice((None, 0.5))))
        elif any(job_id == key[0] for job_id, _ in worker.running):
            self._over(key, Failure(FailureKind.REJECTED, "DUPLICATE_JOB", "running already"))
        elif self.prompt_tokens(key[0]) + (self.checkers.specs[key[0]].max_tokens or 1) > worker.spec.context_length:
            self._over(key, Failure(FailureKind.REJECTED, "CONTEXT_LENGTH_EXCEEDED", "too long"))
        else:
            worker.running[key] = len(self.frames.setdefault(key[0], []))
            if relay.open:
                self.checkers.named(key[0], worker.spec.model, self)
            self.tell(happened.AttemptStarted(*key))
            self.later(self.soon(), lambda: self._step(key, relay))

    def _chance(self, share: float) -> bool:
        return self.faulty and self.rng.random() < share

    def _reaches(self, relay: Relay) -> bool:
        return relay.worker.alive and relay.worker.incarnation == relay.incarnation

    def _step(self, key: tuple[JobId, int], relay: Relay) -> None:
        worker = relay.worker
        if self.relays.get(key) is not relay:
            worker.running.pop(key, None)
        elif not self._reaches(relay):
            self._broken(key, relay)
        elif worker.hung_until > self.now:
            self.later(worker.hung_until - self.now, lambda: self._step(key, relay))
        elif key not in worker.running:
            return
        elif worker.running[key] >= self.lengths[key[0]]:
            del worker.running[key]
            self._over(key, Result("EOS", self.lengths[key[0]]))
        elif worker.liar and self._chance(0.1):
            del worker.running[key]
            self._over(key, Failure(FailureKind.FAILED, "INFERENCE_FAILED", "the model failed"))
        else:
            self._frame(key, relay, worker.running[key])
            worker.running[key] += 1
            self.later(self.rng.uniform(0.05, 0.6), lambda: self._step(key, relay))

    def _frame(self, key: tuple[JobId, int], relay: Relay, index: int) -> None:
        if not relay.open:
            return
        relay.last_frame_at = self.now
        self.checkers.framed(key, index, self)
        self.frames[key[0]].append(index)
        self.tell(happened.FirstTokenSeen(*key))

    def _broken(self, key: tuple[JobId, int], relay: Relay) -> None:
        relay.worker.running.pop(key, None)
        self._over(key, Failure(FailureKind.BROKEN))

    def _over(self, key: tuple[JobId, int], how: Failure | Result) -> None:
        """The shell learns that an attempt is over and says so once."""
        relay = self.relays.pop(key, None)
        self.checkers.over(key)
        if isinstance(how, Result):
            self.tell(happened.AttemptEnded(*key, how))
        elif relay is not None or how.kind is FailureKind.REFUSED:
            frames = len(self.frames.get(key[0], ()))
            self.tell(happened.AttemptFailed(*key, how, frames, frames))

    def _watch_stall(self, key: tuple[JobId, int], relay: Relay) -> None:
        if self.relays.get(key) is not relay:
            return
        idle_s = self.now - relay.last_frame_at
        if idle_s >= SETTINGS.stall_timeout_s - 1e-6:
            self.later(self.soon(), partial(relay.worker.running.pop, key, None))
            self._over(key, Failure(FailureKind.STALLED))
        else:
            self.later(SETTINGS.stall_timeout_s - idle_s, lambda: self._watch_stall(key, relay))

    def _cancel_attempt(self, effect: to_do.CancelAttempt) -> None:
        key = (effect.job_id, effect.attempt)
        relay = self.relays.get(key)
        if relay is None:
            return
        relay.open = False
        self.tell(happened.AttemptStopped(*key, len(self.frames.get(key[0], ()))))

        def arrive() -> None:
            if self.relays.get(key) is not relay:
                return
            if not self._reaches(relay):
                self._broken(key, relay)
            elif relay.worker.hung_until > self.now:
                self.later(relay.worker.hung_until - self.now, arrive)
            else:
                relay.worker.running.pop(key, None)
                self._over(key, Result("CANCELLED", len(self.frames.get(key[0], ()))))

        self.later(self.soon(), arrive)

    # -- workers

    def announce(self, worker: FakeWorker) -> None:
        if worker.alive and not worker.mute:
            self.later(self.soon(), lambda: self.tell(happened.WorkerAnnounced(worker.spec)))

    def heartbeat(self, worker: FakeWorker, incarnation: int) -> None:
        """Once a second, as long as this incarnation lives; duplicated, delayed and wrong at times."""
        if not worker.alive or worker.incarnation != incarnation:
            return
        if not worker.mute and worker.hung_until <= self.now and worker.silent_until <= self.now:
            busy = len(worker.running)
            if worker.liar and self._chance(0.3):
                busy = self.rng.randrange(worker.spec.slots_total + 2)
            load = Load(busy, 10.0, 0, worker.draining)
            beat = happened.HeartbeatReceived(worker.spec.worker_id, load, self._prefixes_on(worker))
            for _ in range(2 if self._chance(0.1) else 1):
                delay_s = self.rng.uniform(0.5, 2.5) if self._chance(0.05) else self.soon()
                self.later(delay_s, lambda: self._receive(worker, beat))
        self.later(1.0, lambda: self.heartbeat(worker, incarnation))

    def _prefixes_on(self, worker: FakeWorker) -> frozenset[str]:
        """What its cache holds: the beginnings of the jobs that run there."""
        records = [record for job_id, _ in worker.running if (record := self.jobs.get(job_id)) is not None]
        return frozenset(digest for record in records for digest in record.spec.prefixes)

    def _receive(self, worker: FakeWorker, beat: happened.HeartbeatReceived) -> None:
        if self.brain is None:
            return
        known = self.brain.worker(beat.worker_id)
        if known is None or known.spec.url != worker.spec.url:
            self.announce(worker)
        else:
            self.tell(beat)

    def start(self, worker: FakeWorker) -> None:
        """The worker process comes up (again)."""
        worker.alive, worker.draining = True, False
        worker.incarnation += 1
        worker.hung_until = worker.silent_until = 0.0
        worker.running = {}
        self.announce(worker)
        self.later(self.rng.uniform(0.2, 1.0), lambda: self.heartbeat(worker, worker.incarnation))

    def kill(self, worker: FakeWorker) -> None:
        """SIGKILL: every stream to it breaks within milliseconds."""
        worker.alive = False
        if self.on_demand is not None:
            self.on_demand.die(worker)
        for key, relay in list(self.relays.items()):
            if relay.worker is worker:
                self.later(self.soon(), partial(self._cut, key, relay))

    def _cut(self, key: tuple[JobId, int], relay: Relay) -> None:
        if self.relays.get(key) is relay:
            self._broken(key, relay)

    # -- clients

    def late_could(self, job_id: JobId) -> bool:
        """A job that came when all was mended, and that some pool could serve: written from what pools are."""
        spec, wishes = self.checkers.specs[job_id], self.checkers.specs[job_id].wishes
        fits = self.prompt_tokens(job_id) + (spec.max_tokens or 1) <= 200
        assert self.on_demand is not None
        return fits and wishes.pin_worker is None and self.on_demand.could(spec)

    def submit(self, spec: JobSpec, length: int) -> None:
        self.checkers.specs[spec.job_id] = spec
        self.lengths[spec.job_id] = length
        self.tell(happened.JobSubmitted(spec))

    def stop_job(self, event: happened.CancelRequested | happened.ClientDisconnected) -> None:
        if self.brain is not None:
            self.wanted_stop.add(event.job_id)
            self.tell(event)
