"""The script in force: answers the brain's questions through its child, and stands back when it fails.

One question at a time, each within CALL_LIMIT_S; a child that exceeds it is killed and started anew. Whatever goes
wrong, every question gets exactly one event, and the brain its built-in answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Protocol

from llorch.base import log
from llorch.base.errors import HostError
from llorch.core.effects import Ask
from llorch.core.events import PolicyAnswered, PolicyFailed, PolicyLoaded
from llorch.core.policy import Hook
from llorch.scripting import questions
from llorch.scripting.breaker import Breaker
from llorch.scripting.check import CALL_LIMIT_S, Report, examine
from llorch.scripting.faults import ChildDied, Reason, ScriptFault
from llorch.scripting.link import Command, Link
from llorch.scripting.questions import NoAnswer

logger = log.get(__name__)

WAITING_MAX = 1024
WAIT_LIMIT_S = 0.5


class Condition(StrEnum):
    """How the script is doing, as `/health` says it."""

    NONE = "none"
    OK = "ok"
    DEGRADED = "degraded"


class Figures(Protocol):
    """Who counts."""

    def asked(self, hook: Hook, seconds: float) -> None:
        """The script was asked, and it took so long until it answered or was given up."""

    def fell_back(self, hook: Hook, reason: Reason) -> None:
        """The built-in policy has to answer."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The script in force."""

    name: str
    source: str
    hooks: frozenset[Hook]

    @property
    def sha256(self) -> str:
        return sha256(self.source.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Waiting:
    ask: Ask
    since: float


class ScriptedPolicy:
    """`load` a script, `ask` it; its answers are posted. `run` must be running for questions to be answered."""

    def __init__(
        self,
        command: Command,
        post: Callable[[PolicyLoaded | PolicyAnswered | PolicyFailed], None],
        figures: Figures,
    ) -> None:
        self._command, self._post, self._figures = command, post, figures
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._expiry: asyncio.TimerHandle | None = None
        self._breaker = Breaker()
        self._lock = asyncio.Lock()
        self._link: Link | None = None
        self.loaded: Loaded | None = None

    @property
    def condition(self) -> Condition:
        """Degraded: it failed within the last minute, or is left alone for a while."""
        if self.loaded is None:
            return Condition.NONE
        return Condition.DEGRADED if self._breaker.is_troubled(_now()) else Condition.OK

    @property
    def child_pid(self) -> int | None:
        """The process that runs the script now."""
        return None if self._link is None else self._link.pid

    async def load(self, name: str, source: str) -> Report:
        """Try a script, and if it is good let it take the place of the one before. Raises HostError."""
        report, link = await examine(self._command, source)
        if link is None:
            return report
        async with self._lock:
            before, self._link = self._link, link
            self.loaded = Loaded(name, source, link.hooks)
            self._breaker.reset()
            self._post(PolicyLoaded(link.hooks, name))
        if before is not None:
            await _closed(before)
        return report

    async def unload(self) -> None:
        """From now on the built-in policy answers everything."""
        async with self._lock:
            before, self._link = self._link, None
            self.loaded = None
            self._post(PolicyLoaded(frozenset(), ""))
        if before is not None:
            await _closed(before)

    def ask(self, ask: Ask) -> None:
        """Put a question; PolicyAnswered or PolicyFailed follows in any case."""
        now = _now()
        if self.loaded is None:
            self._fall_back(ask, Reason.ERROR, "no script is loaded")
        elif self._breaker.is_open(now):
            self._fall_back(ask, Reason.BREAKER)
        elif len(self._waiting) >= WAITING_MAX:
            self._fall_back(ask, Reason.BUSY)
        else:
            self._waiting.append(_Waiting(ask, now))
            self._arrived.set()
            self._watch_waiting()

    async def run(self) -> None:
        """Answer for ever."""
        while True:
            await self._arrived.wait()
            while self._waiting:
                waiting = self._waiting.popleft()
                async with self._lock:
                    await self._answer(waiting.ask)
            self._arrived.clear()

    async def close(self) -> None:
        """End the child."""
        if self._expiry is not None:
            self._expiry.cancel()
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def _answer(self, ask: Ask) -> None:
        if self.loaded is None:
            self._fall_back(ask, Reason.BUSY, "the script was taken away meanwhile")
            return
        if self._breaker.is_open(_now()):
            self._fall_back(ask, Reason.BREAKER)
            return
        if self._link is None and (failure := await self._start()):
            self._failed(ask, Reason.DEATH, failure)
            return
        link = self._link
        assert link is not None, "it was just started"
        if ask.hook not in link.hooks:
            self._fall_back(ask, Reason.BUSY, "another script was loaded meanwhile")
            return
        began = _now()
        try:
            try:
                answer, reply = await questions.put(link, ask, CALL_LIMIT_S)
            finally:
                self._figures.asked(ask.hook, _now() - began)
        except NoAnswer as fault:
            self._failed(ask, fault.reason, fault.detail)
            if fault.link_is_lost:
                await self._replace(link)
        else:
            self._post(PolicyAnswered(ask.ask_id, answer))
            if reply.printed:
                log.event(logger, "the script printed", level=logging.DEBUG, hook=ask.hook.value, printed=reply.printed)

    async def _replace(self, link: Link) -> None:
        """Another child for the same script, so that the next question need not wait for it."""
        self._link = None
        await _closed(link)
        if not self._breaker.is_open(_now()) and (failure := await self._start()):
            log.event(logger, "the policy script cannot be started again", level=logging.WARNING, reason=failure)

    async def _start(self) -> str | None:
        """Start the child; why it could not be, or None. Every failure counts, which bounds how often it is tried."""
        assert self.loaded is not None
        try:
            self._link = await Link.open(self._command, self.loaded.source)
        except TimeoutError:
            failure = "it does not start in time"
        except (ScriptFault, ChildDied, HostError) as error:
            failure = str(error)
        else:
            return None
        self._breaker.failed(_now())
        return failure

    def _failed(self, ask: Ask, reason: Reason, detail: str) -> None:
        """The script's fault: it counts against it."""
        was_open = self._breaker.is_open(_now())
        self._breaker.failed(_now())
        log.event(
            logger,
            f"the policy script failed: {detail}",
            level=logging.WARNING,
            hook=ask.hook.value,
            reason=reason.value,
        )
        if self._breaker.is_open(_now()) and not was_open:
            log.event(logger, "the policy script failed too often and is left alone for a while", level=logging.ERROR)
        self._fall_back(ask, reason, detail)

    def _fall_back(self, ask: Ask, reason: Reason, detail: str = "") -> None:
        self._figures.fell_back(ask.hook, reason)
        self._post(PolicyFailed(ask.ask_id, f"{reason.value}: {detail}" if detail else reason.value))

    def _watch_waiting(self) -> None:
        """Wake up when the question that has waited longest has waited too long."""
        if self._expiry is None and self._waiting:
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_at(self._waiting[0].since + WAIT_LIMIT_S, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        while self._waiting and self._waiting[0].since + WAIT_LIMIT_S <= _now():
            self._fall_back(self._waiting.popleft().ask, Reason.BUSY, "it waited too long")
        self._watch_waiting()


async def _closed(link: Link) -> None:
    """End a child that is not needed any more; one that cannot be ended is no reason to stop."""
    try:
        await link.close()
    except HostError as error:
        log.event(logger, error.message, level=logging.ERROR)


def _now() -> float:
    return asyncio.get_running_loop().time()
