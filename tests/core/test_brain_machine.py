"""A hypothesis state machine drives the brain with any order of events and judges each answer by a few plain rules."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from llorch.base.ids import JobId, ModelId, PoolId, SessionId, WorkerId
from llorch.core import effects as to_do
from llorch.core import events as happened
from llorch.core.brain import Brain, BrainSettings
from llorch.core.hooks import read_answer
from llorch.core.job import Failure, FailureKind, JobSpec, JobState, OnDisconnect, Priority, Result
from llorch.core.policy import Hook
from llorch.core.worker import Load, WorkerSpec

WORKERS = {WorkerId(f"w{number}"): 1 + number for number in range(3)}
SAID: dict[Hook, list[object]] = {
    Hook.ADMIT: [True, False, "no"],
    Hook.PRIORITIZE: [-1, 0, 60.0],
    Hook.CHOOSE_WORKER: ["first", "last", None],
    Hook.ON_QUEUE_FULL: ["reject", "drop_oldest_batch"],
    Hook.RETRY: [0, 1.5, None],
    Hook.TIMEOUT: [{}, {"total_s": 20}, {"queue_s": 5}],
}


class BrainMachine(RuleBasedStateMachine):
    """What the brain says is carried out at once; attempts end, fail and stop as hypothesis likes."""

    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.brain = Brain(BrainSettings(queue_capacity=5))
        self.now = 0.0
        self.count = 0
        self.open: dict[tuple[JobId, int], WorkerId] = {}
        self.asks: dict[int, to_do.Ask] = {}
        self.answered: Counter[JobId] = Counter()
        self.finished: Counter[JobId] = Counter()

    @initialize(hooks=st.sets(st.sampled_from([hook for hook in Hook if hook is not Hook.EVICT])))
    def load(self, hooks: set[Hook]) -> None:
        self.tell(happened.CatalogRead(frozenset({ModelId("m")})))
        self.tell(happened.PolicyLoaded(frozenset(hooks), "x.star"))

    def tell(self, event: happened.Event) -> None:
        for effect in self.brain.decide(event, self.now):
            match effect:
                case to_do.Dispatch():
                    self.open[effect.job_id, effect.attempt] = effect.worker_id
                case to_do.Ask():
                    self.asks[effect.ask_id] = effect
                case to_do.Accept() | to_do.Refuse() | to_do.Duplicate():
                    self.answered[effect.job_id] += 1
                case to_do.Finish():
                    self.finished[effect.job_id] += 1

    @rule(target=jobs, batch=st.booleans(), attached=st.booleans(), session=st.sampled_from([None, "s", "t"]))
    def submit(self, batch: bool, attached: bool, session: str | None) -> JobId:
        self.count += 1
        job_id = JobId(f"j{self.count}")
        spec = JobSpec(
            job_id=job_id,
            payload=b"{}",
            prompt_sha256="",
            prompt_bytes=10,
            seed=1,
            model=ModelId("m"),
            max_tokens=8,
            priority=Priority.BATCH if batch else Priority.INTERACTIVE,
            session_id=None if session is None else SessionId(session),
            on_disconnect=OnDisconnect.CANCEL if attached else OnDisconnect.KEEP,
            attached=attached,
        )
        self.tell(happened.JobSubmitted(spec))
        return job_id

    @rule(name=st.sampled_from(sorted(WORKERS)))
    def announce(self, name: WorkerId) -> None:
        spec = WorkerSpec(name, f"http://{name}", ModelId("m"), "cpu", PoolId("p"), WORKERS[name], 2048, 0, "1", 1)
        self.tell(happened.WorkerAnnounced(spec))

    @rule(name=st.sampled_from(sorted(WORKERS)))
    def beat(self, name: WorkerId) -> None:
        busy = sum(worker == name for worker in self.open.values())
        self.tell(happened.HeartbeatReceived(name, Load(busy)))

    @rule(name=st.sampled_from(sorted(WORKERS)))
    def forget(self, name: WorkerId) -> None:
        self.tell(happened.WorkerForgetRequested(name))

    @rule(job_id=jobs)
    def cancel(self, job_id: JobId) -> None:
        self.tell(happened.CancelRequested(job_id))

    @rule(job_id=jobs)
    def disconnect(self, job_id: JobId) -> None:
        self.tell(happened.ClientDisconnected(job_id))

    @rule(data=st.data())
    def attempt(self, data: st.DataObject) -> None:
        """Something happens to an attempt that is under way."""
        if not self.open:
            return
        key = data.draw(st.sampled_from(sorted(self.open)))
        how = data.draw(st.sampled_from(["started", "first", "end", *FailureKind]))
        if how == "started":
            self.tell(happened.AttemptStarted(*key))
        elif how == "first":
            self.tell(happened.FirstTokenSeen(*key))
        elif isinstance(how, FailureKind):
            del self.open[key]
            self.tell(happened.AttemptFailed(*key, Failure(how), 0, 0))
        else:
            del self.open[key]
            self.tell(happened.AttemptEnded(*key, Result("EOS", 3, 5)))

    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        """The script says something, or fails."""
        if not self.asks:
            return
        ask = self.asks.pop(data.draw(st.sampled_from(sorted(self.asks))))
        arguments: dict[str, Any] = ask.arguments
        said = data.draw(st.sampled_from([*SAID[ask.hook], "fault"]))
        if said == "fault":
            self.tell(happened.PolicyFailed(ask.ask_id, "error"))
            return
        if said in ("first", "last"):
            said = arguments["workers"][0 if said == "first" else -1]
        self.tell(happened.PolicyAnswered(ask.ask_id, read_answer(ask.hook, arguments, said)))

    @rule(seconds=st.sampled_from([0.01, 0.5, 1.0, 4.0, 30.0]))
    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (at := self.brain.next_wakeup()) is not None and at <= until:
            self.now = max(self.now, at)
            self.tell(happened.TimePassed())
        self.now = until

    @invariant()
    def no_seat_is_given_twice(self) -> None:
        for record in self.brain.workers():
            assert record.slots_used <= record.spec.slots_total

    @invariant()
    def one_answer_and_one_end(self) -> None:
        assert all(count == 1 for count in self.answered.values())
        assert all(count == 1 for count in self.finished.values())

    @invariant()
    def the_numbers_agree(self) -> None:
        live = [record for number in range(self.count) if (record := self.brain.job(JobId(f"j{number + 1}")))]
        queued = [record for record in live if record.state is JobState.QUEUED]
        assert self.brain.counts().running == len(live) - len(queued)
        assert all(self.brain.position(record.spec.job_id) is not None for record in queued)
        assert all(not self.finished[record.spec.job_id] for record in live)


TestBrainMachine = BrainMachine.TestCase
TestBrainMachine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestBrainMachine.__doc__ = "Whatever happens in whatever order: one answer, one end, no slot given twice."
