"""Arrivals played through the production brain in virtual time: who would have waited how long under this policy.

A generator: it yields what it needs an answer for (Ask) and how far it is (Progress), and returns the Account; whoever
drives it may be synchronous or not. Deterministic: the same scene and the same answers give the same account.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

from llorch.base.ids import PoolId
from llorch.core import events as happened
from llorch.core.brain import Brain
from llorch.core.effects import Ask
from llorch.core.events import Event, PolicyAnswered, PolicyFailed, PolicyLoaded
from llorch.core.figures import Account, PolicyUse, grouped
from llorch.core.settings import BrainSettings
from llorch.core.stage import Stage
from llorch.core.staging import Arrival, StagedWorker

TURNS_MAX = 20_000_000
TURNS_A_PROGRESS = 2_000
PATIENCE_S = 2 * 86_400.0
BEAT_SHARE_OF_LEASE = 0.8

Reply = PolicyAnswered | PolicyFailed


@dataclass(frozen=True, slots=True)
class Scene:
    """Who comes, who is there to serve them, and by which settings; job ids and worker ids occur once.

    `opening` is told to the brain before anything else. Jobs that nothing happens to for `patience_s` after everything
    else is over are left unfinished; so are all when the brain has taken `turns_max` turns.
    """

    workers: tuple[StagedWorker, ...]
    arrivals: tuple[Arrival, ...]
    settings: BrainSettings
    pools: tuple[PoolId, ...] = ()
    opening: tuple[Event, ...] = ()
    patience_s: float = PATIENCE_S
    turns_max: int = TURNS_MAX


@dataclass(frozen=True, slots=True)
class Progress:
    """`ended` of `jobs` are over, and the virtual clock stands at `now`. Needs no answer."""

    ended: int
    jobs: int
    now: float


Rehearsal = Generator[Ask | Progress, Reply | None, Account]


def rehearse(scene: Scene, script: PolicyLoaded | None = None) -> Rehearsal:
    """Play the scene under the built-in policy, or under a script whose hooks are asked by the yielded Asks."""
    return _Director(scene).play(script)


def run(rehearsal: Rehearsal, answer: Callable[[Ask], Reply]) -> Account:
    """Drive a rehearsal to its end with answers that are there at once."""
    reply: Reply | None = None
    try:
        while True:
            said = rehearsal.send(reply)
            reply = answer(said) if isinstance(said, Ask) else None
    except StopIteration as end:
        account: Account = end.value
        return account


class _Director:
    """The virtual clock between the brain and the stage."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._brain = Brain(scene.settings)
        self._stage = Stage(scene.workers, scene.arrivals)
        self._asked: Counter[str] = Counter()
        self._fallbacks: Counter[str] = Counter()
        self._turns = 0
        self._beat_at = 0.0

    def play(self, script: PolicyLoaded | None) -> Rehearsal:
        """Open, let everything happen in its order, and take the figures."""
        stage = self._stage
        stage.now = stage.moved_at = stage.next_at() or 0.0
        yield from self._turn(self._opening(script))
        told = 0
        while (at := self._next_at()) is not None and self._turns < self._scene.turns_max:
            stage.now = max(at, stage.now)
            if self._beat_at <= stage.now:
                self._beat_at = stage.now + self._scene.settings.lease_s * BEAT_SHARE_OF_LEASE
                yield from self._turn(stage.beats())
            if (wakeup := self._brain.next_wakeup()) is not None and wakeup <= stage.now:
                yield from self._turn([happened.TimePassed()])
            if (entry_at := stage.next_at()) is not None and entry_at <= stage.now:
                yield from self._turn(stage.due())
            if self._turns - told >= TURNS_A_PROGRESS:
                told = self._turns
                yield Progress(stage.ended, len(stage.fates), stage.now)
        return self._account()

    def _opening(self, script: PolicyLoaded | None) -> Iterable[Event]:
        """Recorded jobs were let in, so that their models are known whoever serves them."""
        models = {arrival.spec.model for arrival in self._scene.arrivals}
        yield happened.CatalogRead(frozenset(model for model in models if model is not None))
        for pool in self._scene.pools:
            yield happened.PoolRegistered(pool)
        yield from self._scene.opening
        if script is not None:
            yield script

    def _next_at(self) -> float | None:
        """When something happens next. While no job lives, time until the next entry of the agenda is passed over."""
        stage = self._stage
        at = stage.next_at()
        if not stage.live or (at is None and stage.now > stage.moved_at + self._scene.patience_s):
            return at
        times = [time for time in (at, self._brain.next_wakeup()) if time is not None]
        return min([self._beat_at, *times])

    def _turn(self, events: Iterable[Event]) -> Generator[Ask, Reply, None]:
        """Let the brain decide and the stage carry it out, until nothing more follows at this moment."""
        inbox = deque(events)
        while inbox:
            self._turns += 1
            for effect in self._brain.decide(inbox.popleft(), self._stage.now):
                if isinstance(effect, Ask):
                    reply = yield effect
                    self._count_answer(effect, reply)
                    inbox.append(reply)
                else:
                    inbox.extend(self._stage.carry_out(effect))

    def _count_answer(self, ask: Ask, reply: Reply) -> None:
        self._asked[ask.hook.value] += 1
        if isinstance(reply, PolicyFailed):
            self._fallbacks[f"{ask.hook.value}: {reply.reason}"] += 1

    def _account(self) -> Account:
        groups, span_s = grouped(list(self._stage.fates.values()), self._stage.now)
        policy = PolicyUse(dict(sorted(self._asked.items())), dict(sorted(self._fallbacks.items())))
        return Account(groups, policy, span_s, self._turns, self._turns >= self._scene.turns_max)
