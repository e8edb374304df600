"""The dispatcher alone, against a fake worker: what an attempt says, and what its commit has to do with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from daemons import until
from fakes import FakeWorker as Worker
from fakes import Fault, Trouble

from llorch.base.clock import SystemClock
from llorch.base.ids import JobId, WorkerId
from llorch.core.effects import CancelAttempt, CancelCause, Dispatch
from llorch.core.events import AttemptEnded, AttemptFailed, AttemptStopped, Event
from llorch.core.job import FailureKind, JobRecord, JobSpec, JobState
from llorch.orchestratord import upstream
from llorch.orchestratord.clock import BrainClock
from llorch.orchestratord.dispatch import Dispatcher
from llorch.orchestratord.metrics import Metrics
from llorch.orchestratord.streams import JobStream
from llorch.orchestratord.tunnels import Tunnels
from llorch.store.segments import Segments

JOB = JobId("job-1")
FIRST_TOKEN_TIMEOUT_S = 0.3


@pytest.fixture
def worker() -> Iterator[Worker]:
    """A worker that nobody announced."""
    made = Worker().start()
    yield made
    made.stop()


class Run:
    """One attempt at a worker; `events` is what the brain would hear."""

    def __init__(self, folder: Path, url: str, dispatcher: Callable[[Callable[[Event], None]], Dispatcher]) -> None:
        self.events: list[Event] = []
        self._arrived = asyncio.Event()
        self.dispatcher = dispatcher(self._take)
        self.stream = JobStream(JOB, Segments(folder / "segments").create(JOB))
        self.gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        spec = JobSpec(JOB, b'{"prompt":"a","max_tokens":4}', "", prompt_bytes=1, seed=1)
        record = JobRecord(spec, JobState.DISPATCHED, 0.0, 1)
        effect = Dispatch(JOB, 1, WorkerId("fake-1"), url, True, FIRST_TOKEN_TIMEOUT_S, 5.0, None)
        self.dispatcher.start(effect, self.stream, record, self.gate)

    def _take(self, event: Event) -> None:
        self.events.append(event)
        self._arrived.set()

    async def heard(self, kind: type[Event]) -> Event:
        """The first event of a kind."""
        async with asyncio.timeout(10):
            while True:
                for event in self.events:
                    if isinstance(event, kind):
                        return event
                self._arrived.clear()
                await self._arrived.wait()


def play(folder: Path, url: str, act: Callable[[Run], Awaitable[None]]) -> None:
    """Start an attempt and let `act` go on from there."""

    async def work() -> None:
        async with upstream.open_session(Tunnels().connect) as session, asyncio.TaskGroup() as group:
            clock, metrics = BrainClock(SystemClock()), Metrics()
            await act(Run(folder, url, lambda post: Dispatcher(session, group, clock, metrics, lambda *_: None, post)))

    asyncio.run(work())


def test_a_slow_commit_is_not_the_workers_fault(worker: Worker, tmp_path: Path) -> None:
    """The worker answered, the commit takes longer than the first token may: the attempt waits and goes well."""

    async def act(run: Run) -> None:
        await asyncio.sleep(3 * FIRST_TOKEN_TIMEOUT_S)
        assert run.events == [] and run.stream.segment.size == 0
        run.gate.set_result(None)
        await run.heard(AttemptEnded)

    play(tmp_path, worker.url, act)


def test_a_cancel_leaves_the_gate_alone(worker: Worker, tmp_path: Path) -> None:
    """An attempt that is given up at the gate does not take the turn of the others with it."""

    async def act(run: Run) -> None:
        await asyncio.to_thread(until, lambda: worker.executions, "the request has come")
        run.dispatcher.cancel(CancelAttempt(JOB, 1, WorkerId("fake-1"), worker.url, CancelCause.LOST, 1.0))
        assert isinstance(await run.heard(AttemptStopped), AttemptStopped)
        await asyncio.sleep(0)
        run.gate.set_result(None)

    play(tmp_path, worker.url, act)


def test_a_stopped_attempt_says_what_was_relayed_and_ends_within_its_limit(worker: Worker, tmp_path: Path) -> None:
    """A worker that hangs: the count comes at once, the end after the effect's limit."""
    worker.troubles = [Trouble(Fault.STALL, 2)]

    async def act(run: Run) -> None:
        run.gate.set_result(None)
        await asyncio.to_thread(until, lambda: run.stream.segment.frames == 2, "two frames")
        run.dispatcher.cancel(CancelAttempt(JOB, 1, WorkerId("fake-1"), worker.url, CancelCause.CLIENT, 0.2))
        assert run.events[-1] == AttemptStopped(JOB, 1, 2)
        failed = await run.heard(AttemptFailed)
        assert isinstance(failed, AttemptFailed)
        assert (failed.failure.kind, failed.tokens_relayed) == (FailureKind.STALLED, 2)

    play(tmp_path, worker.url, act)
