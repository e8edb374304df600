"""A real child process per test, always ended; what the script's side posts is collected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from llorch.core.effects import Ask
from llorch.core.events import PolicyAnswered, PolicyFailed, PolicyLoaded
from llorch.core.hooks import Answer
from llorch.core.policy import Hook
from llorch.host import runtime
from llorch.orchestratord.metrics import PolicyFigures
from llorch.scripting.policy import ScriptedPolicy
from llorch.scripting.samples import samples

ANSWER_S = 10.0


def command() -> list[str]:
    """How the child is started."""
    return runtime.daemon_command("policy-child")


def sample(hook: Hook) -> dict[str, Any]:
    """The first of the built-in sample questions."""
    return next(iter(samples(hook)))[1]


@dataclass
class Desk:
    """A scripted policy and everything it posted."""

    policy: ScriptedPolicy
    figures: PolicyFigures
    events: list[PolicyLoaded | PolicyAnswered | PolicyFailed] = field(default_factory=list)
    asked: int = 0

    def put(self, hook: Hook, arguments: dict[str, Any] | None = None) -> int:
        """Ask without waiting; the question's id."""
        self.asked += 1
        self.policy.ask(Ask(self.asked, hook, sample(hook) if arguments is None else arguments))
        return self.asked

    async def answer(self, ask_id: int) -> Answer | str:
        """The answer to a question, or the reason why there was none."""
        async with asyncio.timeout(ANSWER_S):
            while True:
                for event in self.events:
                    if isinstance(event, PolicyAnswered) and event.ask_id == ask_id:
                        return event.answer
                    if isinstance(event, PolicyFailed) and event.ask_id == ask_id:
                        return event.reason
                await asyncio.sleep(0.001)

    async def ask(self, hook: Hook, arguments: dict[str, Any] | None = None) -> Answer | str:
        """Ask and wait."""
        return await self.answer(self.put(hook, arguments))


@asynccontextmanager
async def desk(source: str) -> AsyncIterator[Desk]:
    """A desk with this script in force. A script that its check refuses fails the test."""
    figures = PolicyFigures()
    made = Desk(ScriptedPolicy(command, lambda event: made.events.append(event), figures), figures)
    running = asyncio.get_running_loop().create_task(made.policy.run())
    try:
        report = await made.policy.load("policy.star", source)
        assert report.is_good, report.problems
        yield made
    finally:
        running.cancel()
        await asyncio.wait([running])
        await made.policy.close()
