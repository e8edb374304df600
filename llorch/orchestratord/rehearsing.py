"""Plays a scene with a script in its child process, in the same limits as orchestratord would."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from llorch.base import clock
from llorch.base.errors import ConfigError
from llorch.core.effects import Ask
from llorch.core.events import PolicyAnswered, PolicyFailed, PolicyLoaded
from llorch.core.figures import Account
from llorch.core.rehearsal import Progress, Reply, Scene, rehearse
from llorch.host import runtime
from llorch.scripting import questions
from llorch.scripting.breaker import Breaker
from llorch.scripting.check import CALL_LIMIT_S, TRY_LIMIT_S, examine
from llorch.scripting.faults import ChildDied, Reason, ScriptFault
from llorch.scripting.link import Link
from llorch.scripting.questions import NoAnswer

BUILTIN = "built-in"
CHILDREN_MAX = 20
TELL_EVERY_S = 5.0


class Telling:
    """Progress on stderr, once it takes long; over its own line on a terminal."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._told_at = time.monotonic()
        self._end = ""

    def progress(self, progress: Progress) -> None:
        """Say how far it is, every few seconds."""
        now = time.monotonic()
        if now - self._told_at < TELL_EVERY_S:
            return
        self._told_at = now
        self._end = "\n" if sys.stderr.isatty() else ""
        begin, end = ("\r", "") if self._end else ("", "\n")
        far = f"{progress.ended} of {progress.jobs} jobs, {clock.iso(progress.now)}"
        sys.stderr.write(f"{begin}llorch: {self._title}: {far}{end}")
        sys.stderr.flush()

    def close(self) -> None:
        """End the line."""
        sys.stderr.write(self._end)


async def rehearsed(scene: Scene, name: str, source: str | None, telling: Telling) -> Account:
    """The account of a scene under the built-in policy (source None) or a script. Raises ConfigError, HostError."""
    script = None if source is None else await _Script.load(name, source)
    rehearsal = rehearse(scene, None if script is None else PolicyLoaded(script.link.hooks, name))
    reply: Reply | None = None
    try:
        while True:
            said = rehearsal.send(reply)
            reply = None
            if isinstance(said, Progress):
                telling.progress(said)
                await asyncio.sleep(0)
            elif script is not None:
                reply = await script.answer(said)
            else:
                reply = PolicyFailed(said.ask_id, "no script is loaded")
    except StopIteration as end:
        account: Account = end.value
        return account
    finally:
        telling.close()
        if script is not None:
            await script.link.close()


class _Script:
    """A script that answers. Its failures count in virtual time, as they would have counted then."""

    def __init__(self, name: str, source: str, link: Link) -> None:
        self.link = link
        self._name, self._source = name, source
        self._breaker = Breaker()
        self._children = 1
        self._now = 0.0

    @classmethod
    async def load(cls, name: str, source: str) -> _Script:
        report, link = await examine(_command, source)
        if link is None:
            problem = report.problems[0]
            place = f":{problem.line}" if problem.line else ""
            raise ConfigError(f"policy script {name}{place}: {problem.message}")
        return cls(name, source, link)

    async def answer(self, ask: Ask) -> Reply:
        """The script's answer, or why the built-in one has to stand in. Raises ConfigError when it dies too often."""
        task: Any = ask.arguments.get("task")
        self._now = self._now if task is None else task["now"]
        if self._breaker.is_open(self._now):
            return PolicyFailed(ask.ask_id, Reason.BREAKER.value)
        try:
            # Processor time decides, so that a busy machine changes no figure.
            answer, said = await questions.put(self.link, ask, TRY_LIMIT_S)
        except NoAnswer as fault:
            if fault.link_is_lost:
                await self._restart()
            return self._failed(ask, fault.reason)
        if said.cpu_s > CALL_LIMIT_S:
            return self._failed(ask, Reason.DEADLINE)
        return PolicyAnswered(ask.ask_id, answer)

    def _failed(self, ask: Ask, reason: Reason) -> PolicyFailed:
        self._breaker.failed(self._now)
        return PolicyFailed(ask.ask_id, reason.value)

    async def _restart(self) -> None:
        await self.link.close()
        if self._children >= CHILDREN_MAX:
            raise ConfigError(f"policy script {self._name}: its process had to be started {CHILDREN_MAX} times")
        self._children += 1
        try:
            self.link = await Link.open(_command, self._source)
        except (ScriptFault, ChildDied, TimeoutError) as error:
            raise ConfigError(f"policy script {self._name}: it cannot be started again: {error}") from None


def _command() -> list[str]:
    return runtime.daemon_command("policy-child")
