"""Every recipe of spec/policy.md passes the check and does what its page says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripting_desk import Desk, command, desk, sample

from llorch.base.ids import ModelId, PoolId, WorkerId
from llorch.core.hooks import Answer, ChangedTimeouts, workers_argument
from llorch.core.policy import Candidate, Hook, Rejection, WhenFull
from llorch.scripting.check import check

PAGE = Path(__file__).resolve().parents[2] / "spec" / "policy.md"
RECIPES = dict(re.findall(r"^### ([^\n]+)\n.*?^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL))


def worker(name: str, **changes: Any) -> Candidate:
    """A worker of the pool `nas`."""
    plain = Candidate(WorkerId(name), PoolId("nas"), ModelId("qwen3-8b"), 1, 0.0, 10.0, False, False, 0, False)
    return replace(plain, **changes)


class Asker:
    """Asks a recipe with a task changed here and there."""

    def __init__(self, here: Desk) -> None:
        self._here = here

    async def __call__(self, hook: Hook, *, task: dict[str, Any] | None = None, **arguments: Any) -> Answer | str:
        """The answer; `workers` are candidates."""
        given = {**sample(hook), **arguments}
        if "workers" in arguments:
            given["workers"] = workers_argument(arguments["workers"])
        if task is not None:
            given["task"] = {**given["task"], **task}
        return await self._here.ask(hook, given)


async def quiet_hours(ask: Asker) -> None:
    """The bedroom rests at night."""
    both = [worker("a", pool=PoolId("bedroom")), worker("b")]
    assert await ask(Hook.CHOOSE_WORKER, task={"hour": 12}, workers=both) == "a"
    assert await ask(Hook.CHOOSE_WORKER, task={"hour": 23}, workers=both) == "b"
    assert await ask(Hook.CHOOSE_WORKER, task={"hour": 6}, workers=both[:1]) is None


async def vip_tenant(ask: Asker) -> None:
    """Alice is first, and tried longer."""
    assert await ask(Hook.PRIORITIZE, task={"tenant": "alice", "priority": "batch"}) == -1.0
    assert await ask(Hook.PRIORITIZE, task={"tenant": "bob", "priority": "interactive"}) == 0.0
    assert await ask(Hook.PRIORITIZE, task={"tenant": "bob", "priority": "batch"}) == 300.0
    failure = {"kind": "broken", "code": "WORKER_LOST", "message": ""}
    assert await ask(Hook.RETRY, task={"tenant": "alice"}, failure=failure, n=5) == 25.0
    assert await ask(Hook.RETRY, task={"tenant": "bob"}, failure=failure, n=3) is None
    assert await ask(Hook.RETRY, task={"tenant": "alice"}, failure={**failure, "kind": "rejected"}, n=1) is None


async def cheapest_host_first(ask: Asker) -> None:
    """Batch goes to the cheap one, interactive to the best."""
    both = [worker("big", pool=PoolId("big-box")), worker("b", load=0.5), worker("c", load=0.2)]
    assert await ask(Hook.CHOOSE_WORKER, task={"priority": "batch"}, workers=both) == "c"
    assert await ask(Hook.CHOOSE_WORKER, task={"priority": "interactive"}, workers=both) == "big"


async def sticky_sessions(ask: Asker) -> None:
    """A long chat waits for its worker, for ten seconds."""
    chat = {"session_id": "s", "prompt_bytes": 20_000, "waited_s": 1.0}
    strangers = [worker("a"), worker("b", prefix_parts=3)]
    assert await ask(Hook.CHOOSE_WORKER, task=chat, workers=[*strangers, worker("c", affine=True)]) == "c"
    assert await ask(Hook.CHOOSE_WORKER, task=chat, workers=strangers) is None
    assert await ask(Hook.CHOOSE_WORKER, task={**chat, "waited_s": 11.0}, workers=strangers) == "b"
    assert await ask(Hook.CHOOSE_WORKER, task={**chat, "session_id": None}, workers=strangers) == "b"


async def gaming(ask: Asker) -> None:
    """The gaming machine is its owner's in the evening."""
    pc, nas = worker("pc", pool=PoolId("gaming-pc")), worker("nas")
    monday = {"tenant": "bob", "weekday": 0, "hour": 12}
    assert await ask(Hook.CHOOSE_WORKER, task=monday, workers=[pc, nas]) == "pc"
    assert await ask(Hook.CHOOSE_WORKER, task={**monday, "hour": 20}, workers=[pc, nas]) == "nas"
    assert await ask(Hook.CHOOSE_WORKER, task={**monday, "weekday": 6}, workers=[pc]) is None
    assert await ask(Hook.CHOOSE_WORKER, task={**monday, "hour": 20, "tenant": "sam"}, workers=[pc, nas]) == "pc"
    assert await ask(Hook.EVICT, workers=[nas, pc], need=1) == ("pc", "nas")


async def batch_at_night(ask: Asker) -> None:
    """By day batch waits and does not time out."""
    ready = [worker("a")]
    assert await ask(Hook.CHOOSE_WORKER, task={"priority": "batch", "hour": 12}, workers=ready) is None
    assert await ask(Hook.CHOOSE_WORKER, task={"priority": "batch", "hour": 21}, workers=ready) == "a"
    assert await ask(Hook.CHOOSE_WORKER, task={"priority": "interactive", "hour": 12}, workers=ready) == "a"
    assert await ask(Hook.TIMEOUT, task={"priority": "batch"}) == ChangedTimeouts((("queue_s", None),))
    assert await ask(Hook.TIMEOUT, task={"priority": "interactive"}) == ChangedTimeouts()
    assert await ask(Hook.ON_QUEUE_FULL, task={"priority": "interactive"}) is WhenFull.DROP_OLDEST_BATCH
    assert await ask(Hook.ON_QUEUE_FULL, task={"priority": "batch"}) is WhenFull.REJECT


async def model_pinning(ask: Asker) -> None:
    """Support gets its own model."""
    assert await ask(Hook.ADMIT, task={"tenant": "support", "model": "phi-4-mini"}) is None
    assert await ask(Hook.ADMIT, task={"tenant": "support", "model": None}) is None
    told = await ask(Hook.ADMIT, task={"tenant": "support", "model": "qwen3-8b"})
    assert told == Rejection("support may use phi-4-mini only")
    both = [worker("a"), worker("b", model=ModelId("phi-4-mini"))]
    assert await ask(Hook.CHOOSE_WORKER, task={"tenant": "support"}, workers=both) == "b"
    assert await ask(Hook.CHOOSE_WORKER, task={"tenant": "support"}, workers=both[:1]) is None
    assert await ask(Hook.CHOOSE_WORKER, task={"tenant": "bob"}, workers=both) == "a"


async def cost_caps(ask: Asker) -> None:
    """Tokens, answers and jobs are bounded."""

    def house(**tenant: int) -> dict[str, Any]:
        return {**sample(Hook.ADMIT)["ctx"], "tenant": {"running": 0, "waiting": 0, "tokens_today": 0, **tenant}}

    assert await ask(Hook.ADMIT, task={"tenant": "bob"}, ctx=house(tokens_today=300_000)) is None
    spent = await ask(Hook.ADMIT, task={"tenant": "intern"}, ctx=house(tokens_today=300_000))
    assert spent == Rejection("the tokens of today are used up", 120.0)
    long = await ask(Hook.ADMIT, task={"tenant": "guest", "max_tokens": None}, ctx=house())
    assert long == Rejection("guests must ask for at most 1024 tokens")
    many = await ask(Hook.ADMIT, task={"tenant": "bob"}, ctx=house(running=4, waiting=16))
    assert many == Rejection("20 jobs at once are enough", 5.0)


async def canary(ask: Asker) -> None:
    """One in twenty, and not again after a failure."""
    both = [worker("a"), worker("worker-canary")]
    lucky = {"priority": "interactive", "random": 0.01}
    assert await ask(Hook.CHOOSE_WORKER, task=lucky, workers=both) == "worker-canary"
    assert await ask(Hook.CHOOSE_WORKER, task={**lucky, "random": 0.5}, workers=both[::-1]) == "a"
    assert await ask(Hook.CHOOSE_WORKER, task={**lucky, "priority": "batch"}, workers=both) == "a"
    failed = [worker("worker-canary", second_choice=True), worker("a")]
    assert await ask(Hook.CHOOSE_WORKER, task=lucky, workers=failed) == "a"
    assert await ask(Hook.CHOOSE_WORKER, task={**lucky, "random": 0.5}, workers=both[1:]) is None


async def short_first(ask: Asker) -> None:
    """Small before large when the queue is long."""
    long_queue = {**sample(Hook.PRIORITIZE)["ctx"], "queue_depth": 50}
    small, large = ({"prompt_bytes": size, "max_tokens": 100, "priority": "interactive"} for size in (400, 40_000))
    first = await ask(Hook.PRIORITIZE, task=small, ctx=long_queue)
    assert first == 5.0
    assert await ask(Hook.PRIORITIZE, task=large, ctx=long_queue) == 104.0
    assert await ask(Hook.PRIORITIZE, task={**large, "prompt_bytes": 4_000_000}, ctx=long_queue) == 120.0
    assert await ask(Hook.PRIORITIZE, task=large) == 0.0


BEHAVIOUR: dict[str, Callable[[Asker], Any]] = {
    "quiet hours": quiet_hours,
    "VIP tenant": vip_tenant,
    "cheapest host first": cheapest_host_first,
    "sticky sessions": sticky_sessions,
    "keep one GPU free for gaming": gaming,
    "batch only at night": batch_at_night,
    "model pinning": model_pinning,
    "cost caps": cost_caps,
    "canary worker": canary,
    "short answers first": short_first,
}


def test_every_recipe_has_a_test() -> None:
    """The page and this file name the same recipes."""
    assert set(RECIPES) == set(BEHAVIOUR)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_passes_the_check(name: str) -> None:
    """`llorch policy check` has nothing to say against it."""
    report = asyncio.run(check(command, RECIPES[name]))
    assert report.is_good, report.problems


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_does_what_it_says(name: str) -> None:
    """Concrete questions get the answers that the page promises."""

    async def go() -> None:
        async with desk(RECIPES[name]) as here:
            await BEHAVIOUR[name](Asker(here))

    asyncio.run(go())
