"""A script that loops, grows, crashes or lies costs its own answers and nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from scripting_desk import Desk, command, desk, sample

from llorch.core.events import PolicyLoaded
from llorch.core.policy import Hook
from llorch.scripting import breaker, policy
from llorch.scripting.breaker import Breaker
from llorch.scripting.check import check
from llorch.scripting.child import MEMORY_MAX_BYTES
from llorch.scripting.link import SCRIPT_MAX_BYTES
from llorch.scripting.policy import Condition

# Good for every sample; what goes wrong, goes wrong for the model `odd`.
SCRIPT = """
def admit(task, ctx):
    if task.model == "odd":
        %s
    return True
"""
LOOP = "for i in range(1000000000):\n            pass"
BOMB = "x = [1]\n        for i in range(100):\n            x = x + x"
HUGE_TEXT = "x = task.model * 1000000000"
NESTED = "for i in range(1000000):\n            for j in range(1000000):\n                x = i * j"
RECURSION = "return admit(task, ctx)"
HUGE_ANSWER = "return ['x' * 1000] * 100000"


def odd() -> dict[str, Any]:
    """A question that has the script go wrong."""
    arguments = sample(Hook.ADMIT)
    return {**arguments, "task": {**arguments["task"], "model": "odd"}}


async def works(here: Desk) -> bool:
    """Does the script answer again, once its child has been started anew?"""
    for _ in range(10):  # each may wait while the child is being started
        if not isinstance(await here.ask(Hook.ADMIT), str):
            return True
    return False


@pytest.mark.parametrize(
    ("body", "reasons", "is_replaced"),
    [
        (LOOP, ("deadline",), True),
        (NESTED, ("deadline",), True),
        (BOMB, ("death", "deadline"), True),
        (HUGE_TEXT, ("death",), True),
        (RECURSION, ("error",), False),
        (HUGE_ANSWER, ("error", "death", "deadline"), None),
    ],
    ids=["loop", "nested loop", "memory bomb", "huge text", "recursion", "huge answer"],
)
def test_a_wild_script_falls_back_and_comes_back(body: str, reasons: tuple[str, ...], is_replaced: bool | None) -> None:
    """The question is answered by a reason in time, the child replaced where it had to die, and the next answered."""

    async def go() -> None:
        async with desk(SCRIPT % body) as here:
            pid = here.policy.child_pid
            began = time.monotonic()
            told = await here.ask(Hook.ADMIT, odd())
            assert isinstance(told, str) and told.partition(":")[0] in reasons, told
            assert time.monotonic() - began < 1.0
            assert here.policy.condition is Condition.DEGRADED
            assert await works(here)
            if is_replaced is not None:
                assert (here.policy.child_pid != pid) is is_replaced
            (counted,) = here.figures.counts()["fallbacks"].values()  # type: ignore[attr-defined]
            assert told.partition(":")[0] in counted

    asyncio.run(go())


def test_other_tasks_go_on_while_a_script_hangs() -> None:
    """The loop of this process is not held up: no gap of 100 ms, not even while the child is replaced."""

    async def go() -> None:
        async with desk(SCRIPT % LOOP) as here:
            asked = here.put(Hook.ADMIT, odd())
            gaps, before, answered = [], time.monotonic(), asyncio.ensure_future(here.answer(asked))
            while not answered.done() or here.policy.child_pid is None:
                await asyncio.sleep(0)
                now = time.monotonic()
                gaps.append(now - before)
                before = now
            assert max(gaps) < 0.1

    asyncio.run(go())


def test_a_child_killed_from_outside_is_replaced() -> None:
    """kill -9 of the child between questions costs at most one answer, told as `death`."""

    async def go() -> None:
        async with desk(SCRIPT % "pass") as here:
            pid = here.policy.child_pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            told = await here.ask(Hook.ADMIT)
            assert told == "death: it was killed by SIGKILL"
            assert await works(here)
            assert here.policy.child_pid != pid

    asyncio.run(go())


def test_a_breaker_keeps_a_failing_script_away() -> None:
    """After five failures nobody is asked; each question still has its one event; another script starts afresh."""

    async def go() -> None:
        async with desk(SCRIPT % "fail('again')") as here:
            for _ in range(breaker.FAILURES_MAX):
                assert (await here.ask(Hook.ADMIT, odd())).startswith("error: ")  # type: ignore[union-attr]
            assert await here.ask(Hook.ADMIT) == "breaker"
            assert here.policy.condition is Condition.DEGRADED
            assert (await here.policy.load("policy.star", SCRIPT % "pass")).is_good
            assert here.policy.condition is Condition.OK
            assert await here.ask(Hook.ADMIT) is None

    asyncio.run(go())


def test_the_breaker_opens_and_closes_by_the_clock() -> None:
    """Five failures within a minute open it for half a minute; five in more than a minute do not."""
    slow, fast = Breaker(), Breaker()
    for n in range(breaker.FAILURES_MAX * 2):
        slow.failed(n * 20.0)
        assert not slow.is_open(n * 20.0)
    for n in range(breaker.FAILURES_MAX):
        assert not fast.is_open(n * 1.0)
        fast.failed(n * 1.0)
    last = breaker.FAILURES_MAX - 1.0
    assert fast.is_open(last + 29.9) and not fast.is_open(last + 30.0)
    assert fast.is_troubled(last + 40.0) and not fast.is_troubled(last + 120.0)
    for n in range(breaker.FAILURES_MAX - 1):
        fast.failed(last + 31.0 + n)
    assert not fast.is_open(last + 40.0)
    fast.failed(last + 40.0)
    assert fast.is_open(last + 40.0)


def test_questions_beyond_the_bound_are_turned_away_at_once() -> None:
    """The line of waiting questions is bounded; every question has exactly one event in the end."""

    async def go() -> None:
        async with desk(SCRIPT % "pass") as here:
            ids = [here.put(Hook.ADMIT) for _ in range(policy.WAITING_MAX + 10)]
            assert [event.reason for event in here.events[1:]] == ["busy"] * 10  # type: ignore[union-attr]
            for ask_id in ids:
                await here.answer(ask_id)
            told = [event.ask_id for event in here.events if not isinstance(event, PolicyLoaded)]
            assert sorted(told) == ids

    asyncio.run(go())


def test_a_question_does_not_wait_for_ever_behind_slow_ones() -> None:
    """One that waited too long behind others is told so."""
    slow = "for i in range(400000):\n            pass"

    async def go() -> None:
        async with desk(SCRIPT % slow) as here:
            ids = [here.put(Hook.ADMIT, odd()) for _ in range(1000)]
            began = time.monotonic()
            told = [await here.answer(ask_id) for ask_id in ids]
            assert time.monotonic() - began < 5.0
            assert told[-1] in ("busy: it waited too long", "breaker")

    asyncio.run(go())


def limits(pid: int) -> dict[str, str]:
    """The limits in force, by their names in /proc."""
    rows = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    return {row[:26].strip(): row[26:47].strip() for row in rows}


def descriptors(pid: int) -> dict[int, str]:
    """What a process holds open."""
    return {int(fd.name): os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}


def look_at_confinement(pid: int) -> None:
    """The limits are in force, the environment is empty, nothing is open but the socket and /dev/null."""
    found, held = limits(pid), descriptors(pid)
    assert found["Max address space"] == str(MEMORY_MAX_BYTES)
    assert found["Max file size"] == found["Max core file size"] == "0"
    assert found["Max open files"] == "3"
    assert Path(f"/proc/{pid}/environ").read_bytes() == b""
    assert set(held) == {0, 1, 2}
    assert held[0].startswith("socket:") and {held[1], held[2]} == {"/dev/null"}
    assert os.readlink(f"/proc/{pid}/cwd") == "/"


def test_the_child_is_confined() -> None:
    """Its limits are in force, its environment is empty, and it holds no descriptor but its socket and /dev/null."""

    async def go() -> None:
        async with desk(SCRIPT % "pass") as here:
            assert here.policy.child_pid is not None
            look_at_confinement(here.policy.child_pid)

    asyncio.run(go())


def test_the_child_ends_with_us() -> None:
    """Closing leaves no process behind."""

    async def go() -> int:
        async with desk(SCRIPT % "pass") as here:
            pid = here.policy.child_pid
            assert pid is not None
            return pid

    pid = asyncio.run(go())
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("def admit(task, ctx):\n    while True:\n        pass\n", "while"),
        ("load('other.star', 'x')\n", "load"),
        ("def admit(task, ctx):\n    return open('/etc/passwd')\n", "open"),
        ("import os\n", "import"),
        ("x = 'a' * 1000000000\n", "too much memory"),
        ("#" * (SCRIPT_MAX_BYTES + 1), "larger than 64 KiB"),
        ("def admit(task):\n    return True\n", "admit(task, ctx)"),
        ("def admitt(task, ctx):\n    return True\n", "did you mean 'admit'"),
        ("x = 1\n", "none of the hooks"),
        ("admit = 7\n", "must be a function"),
        ("def admit(task, ctx):\n    return 7\n", "admit must return"),
        ("def admit(task, ctx):\n    return task.modl == 1\n", "did you mean `model`"),
        ("def choose_worker(task, workers):\n    return workers[1]\n", "Index"),
    ],
    ids=lambda value: value[:24],
)
def test_a_bad_script_is_refused_and_the_old_one_stays(source: str, word: str) -> None:
    """Loading a bad script says what is wrong, and the one before goes on answering."""

    async def go() -> None:
        async with desk(SCRIPT % "pass") as here:
            report = await here.policy.load("new.star", source)
            assert not report.is_good
            assert word.lower() in report.problems[0].message.lower(), report.problems
            assert here.policy.loaded is not None and here.policy.loaded.name == "policy.star"
            assert await here.ask(Hook.ADMIT) is None

    asyncio.run(go())


def test_a_good_script_takes_over() -> None:
    """The brain is told the new hooks; questions still waiting for a hook that is gone fall back."""

    async def go() -> None:
        async with desk(SCRIPT % "pass") as here:
            before = here.policy.child_pid
            report = await here.policy.load("new.star", "def retry(task, failure, n):\n    return 1\n")
            assert report.is_good and here.policy.child_pid != before
            assert here.events[-1] == PolicyLoaded(frozenset({Hook.RETRY}), "new.star")
            assert await here.ask(Hook.RETRY) == 1.0
            assert (await here.ask(Hook.ADMIT)).startswith("busy: ")  # type: ignore[union-attr]

    asyncio.run(go())


def test_an_endless_script_is_refused_once() -> None:
    """The check of an endless script ends with the first sample, not with all of them."""

    async def go() -> None:
        source = "def admit(task, ctx):\n    for i in range(1000000000):\n        pass\n"
        report = await check(command, source)
        assert report.tried == 1
        assert "does not come to an end" in report.problems[0].message

    asyncio.run(go())
