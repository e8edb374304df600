"""What the tests of the brain begin with: short ways to say a job, a worker, and what was decided."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llorch.base.ids import JobId, ModelId, PoolId, WorkerId
from llorch.core import events as happened
from llorch.core.brain import Brain, BrainSettings
from llorch.core.effects import Accept, Decision, Dispatch, Effect, Finish, Persist, Refuse
from llorch.core.job import Ending, Failure, FailureKind, JobRecord, JobSpec, Result
from llorch.core.tenant import UsageRecord
from llorch.core.worker import Load, WorkerSpec

DEMO = ModelId("demo")
SETTINGS = BrainSettings()
CATALOG = happened.CatalogRead(frozenset({DEMO, ModelId("other")}))
BROKEN = Failure(FailureKind.BROKEN)


def a_job(name: str = "j1", **changes: Any) -> JobSpec:
    """A small job for the demo model."""
    spec = JobSpec(JobId(name), b"{}", "", prompt_bytes=10, seed=1, model=DEMO, max_tokens=20)
    return replace(spec, **changes)


def a_worker(name: str = "w1", **changes: Any) -> WorkerSpec:
    """A worker of the demo model with one slot."""
    spec = WorkerSpec(WorkerId(name), f"http://{name}", DEMO, "cpu", PoolId("local"), 1, 2048, 0, "1", 1)
    return replace(spec, **changes)


class Story:
    """A brain and the time; each call is one event and answers with its effects."""

    def __init__(self, settings: BrainSettings = SETTINGS, brain: Brain | None = None) -> None:
        self.brain = brain or Brain(settings)
        self.now = 100.0
        self.tell(CATALOG)

    def tell(self, event: Any) -> list[Effect]:
        return self.brain.decide(event, self.now)

    def worker(self, name: str = "w1", **changes: Any) -> list[Effect]:
        return self.tell(happened.WorkerAnnounced(a_worker(name, **changes)))

    def submit(self, name: str = "j1", **changes: Any) -> list[Effect]:
        return self.tell(happened.JobSubmitted(a_job(name, **changes)))

    def end(self, name: str = "j1", attempt: int = 1, reason: str = "EOS") -> list[Effect]:
        return self.tell(happened.AttemptEnded(JobId(name), attempt, Result(reason, 3)))

    def fail(self, name: str = "j1", attempt: int = 1, failure: Failure = BROKEN, frames: int = 0) -> list[Effect]:
        return self.tell(happened.AttemptFailed(JobId(name), attempt, failure, frames, frames))

    def stopped(self, name: str = "j1", attempt: int = 1, tokens: int = 0) -> list[Effect]:
        return self.tell(happened.AttemptStopped(JobId(name), attempt, tokens))

    def first(self, name: str = "j1", attempt: int = 1) -> list[Effect]:
        return self.tell(happened.FirstTokenSeen(JobId(name), attempt))

    def cancel(self, name: str = "j1") -> list[Effect]:
        return self.tell(happened.CancelRequested(JobId(name)))

    def wait(self, seconds: float) -> list[Effect]:
        """Let time pass, ringing whenever the brain asked for it."""
        until = self.now + seconds
        effects: list[Effect] = []
        while (at := self.brain.next_wakeup()) is not None and at <= until:
            self.now = max(at, self.now)
            effects += self.tell(happened.TimePassed())
        self.now = until
        return effects

    def look(self) -> tuple[object, ...]:
        """Everything the brain shows."""
        brain = self.brain
        names = [JobId(f"j{number}") for number in range(1, 6)]
        return (
            [(brain.job(name), brain.position(name)) for name in names],
            brain.workers(),
            brain.pools(),
            brain.counts(),
            brain.next_wakeup(),
        )


def with_worker() -> Story:
    """A story in which w1 is ready."""
    story = Story()
    story.worker()
    return story


def beat(name: str, **load: Any) -> happened.HeartbeatReceived:
    """A sign of life with these facts."""
    return happened.HeartbeatReceived(WorkerId(name), Load(**load))


def kinds(effects: list[Effect]) -> list[str]:
    """The effects without decisions and usage, as words."""
    words = []
    for effect in effects:
        if isinstance(effect, Persist):
            record = effect.record
            if isinstance(record, Decision | UsageRecord):
                continue
            words.append(f"keep {record.state.value}" if isinstance(record, JobRecord) else type(record).__name__)
        else:
            words.append(type(effect).__name__)
    return words


def dispatched(effects: list[Effect]) -> list[tuple[str, str]]:
    """Who was sent where."""
    return [(effect.job_id, effect.worker_id) for effect in effects if isinstance(effect, Dispatch)]


def refusal(effects: list[Effect]) -> Refuse:
    """The one answer, which must be a refusal."""
    [effect] = effects
    assert isinstance(effect, Refuse)
    return effect


def accepted(effects: list[Effect]) -> Accept:
    """The one Accept among the effects."""
    [effect] = [effect for effect in effects if isinstance(effect, Accept)]
    return effect


def finished(effects: list[Effect]) -> list[tuple[str, str, str | None]]:
    """Who ended how."""
    return [(e.job_id, e.ending.state.value, e.ending.error_code) for e in effects if isinstance(e, Finish)]


def ending_of(effects: list[Effect]) -> Ending:
    """How the one job that ended did so."""
    [ending] = [effect.ending for effect in effects if isinstance(effect, Finish)]
    return ending
