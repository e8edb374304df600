"""The actuator on this host: real llorch-pool commands, and the events that come of them."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llorch.base.ids import ModelId, PoolId, WorkerId
from llorch.core.effects import ReadPool, SpawnCause, SpawnWorker, StopCause, StopWorker, WakePool
from llorch.core.events import Event, SpawnFailed, SpawnProgressed, SpawnStarted, StopFailed, WorkerStopped
from llorch.core.pool_facts import PoolRead
from llorch.orchestratord.actuator import Actuator, _Progress
from llorch.orchestratord.demand_file import LOCAL, Profile
from llorch.orchestratord.metrics import LoadFigures
from llorch.orchestratord.tunnels import Tunnels

GONE = PoolId("gone")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of a model that no memory holds."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith(("LLORCH_", "XDG_")) and name != "LLORCH_CACHE"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LLORCH_HOME", str(tmp_path / "pool"))
    folder = tmp_path / "pool" / "models" / "huge"
    folder.mkdir(parents=True)
    entry = {"id": "huge", "name": "Huge", "repo": "o/r", "architecture": "llama", "path": "models/huge"}
    entry |= {"downloaded": True, "size_bytes": 1 << 49, "files": []}
    (tmp_path / "pool" / "catalog.json").write_text(json.dumps({"version": 1, "models": [entry]}))
    return tmp_path


def spawn(model: str, pool: PoolId = LOCAL) -> SpawnWorker:
    return SpawnWorker(pool, ModelId(model), WorkerId("auto-0-1"), "cpu", None, 1, SpawnCause.JOB, 60.0)


async def nobody(url: str, correlation_id: str) -> None:
    raise AssertionError("no worker here is behind a tunnel")


def heard(*effects: SpawnWorker | StopWorker | ReadPool | WakePool, until: int) -> list[Event]:
    """Carry these out and wait for so many events."""
    events: list[Event] = []

    async def play() -> None:
        enough = asyncio.Event()

        def post(event: Event) -> None:
            events.append(event)
            if len(events) >= until:
                enough.set()

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            actuator = Actuator(
                group,
                post,
                LoadFigures(),
                "token",
                lambda: "http://127.0.0.1:1",
                only_loopback=True,
                tunnels=Tunnels(),
                take_in=nobody,
            )
            actuator.set_pools({LOCAL: Profile(None)}, watched=False)
            for effect in effects:
                actuator.carry_out(effect)
            await enough.wait()
            await actuator.close()

    asyncio.run(play())
    return events


def test_what_does_not_fit_is_told_with_its_code_and_then_the_facts(home: Path) -> None:
    """The pool's own refusal is the reason; the facts after it are of the same pool."""
    started, failed, facts = heard(spawn("huge"), until=3)
    assert isinstance(started, SpawnStarted) and isinstance(failed, SpawnFailed)
    assert failed.code == "INSUFFICIENT_MEMORY" and "needs about" in failed.reason
    assert isinstance(facts, PoolRead) and facts.reachable and "huge" in {there.model for there in facts.models}


def test_a_model_that_is_not_there_and_a_worker_that_is_not_there(home: Path) -> None:
    """A missing model is a failed spawn with the command to mend it; a missing worker is stopped already."""
    stop = StopWorker(LOCAL, WorkerId("auto-0-9"), ModelId("demo"), StopCause.IDLE, 5.0)
    events = heard(spawn("tinyllama"), stop, until=5)
    [failed] = [event for event in events if isinstance(event, SpawnFailed)]
    assert "llorch-pool models download tinyllama" in failed.reason
    assert [type(event) for event in events if not isinstance(event, PoolRead)][-1] is WorkerStopped
    assert sum(isinstance(event, PoolRead) for event in events) == 2


def test_a_pool_without_a_profile_gets_no_command(home: Path) -> None:
    """Whoever asks: only pools of the configuration are logged in to."""
    stop = StopWorker(GONE, WorkerId("auto-0-9"), ModelId("demo"), StopCause.IDLE, 5.0)
    failed, unstopped = heard(spawn("demo", GONE), stop, WakePool(GONE, 1.0), until=2)
    assert isinstance(failed, SpawnFailed) and isinstance(unstopped, StopFailed)


@pytest.mark.parametrize("cut", [lambda text: [text], lambda text: [text[i : i + 1] for i in range(len(text))]])
def test_progress_is_found_at_the_ends_of_lines(cut: Callable[[bytes], list[bytes]]) -> None:
    """Whole or byte by byte; other lines, and other percents, are none."""
    shares: list[Event] = []
    progress = _Progress(lambda share: shares.append(SpawnProgressed(WorkerId("w"), share)))
    for piece in cut(b"w loads demo on port 8001: 0 %\nunpacking 55 % of it\nw loads demo: 40 %\r: 100 %\nrest: 7"):
        progress.feed(piece)
    assert [event.progress for event in shares if isinstance(event, SpawnProgressed)] == [0.0, 0.4, 1.0]
