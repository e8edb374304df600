"""Carries out what the brain decides about pools: start and stop workers, read facts, wake. Decides nothing.

One command at a time on each pool, in the order given, and the pool's facts after each; every outcome is an event. Our
own host is pool `local` and driven without SSH.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

from llorch.base import callback, errors, ids, log
from llorch.base.addresses import is_loopback
from llorch.base.errors import InvalidRequest, LlorchError, PoolUnavailable
from llorch.base.ids import PoolId
from llorch.core.effects import Effect, ReadPool, SpawnWorker, StopCause, StopWorker, WakePool
from llorch.core.events import Event, SpawnFailed, SpawnProgressed, SpawnReady, SpawnStarted, StopFailed, WorkerStopped
from llorch.core.pool_facts import PoolRead
from llorch.host import wake
from llorch.host.pool_session import Done, PoolSession, open_session
from llorch.orchestratord import pool_report
from llorch.orchestratord.addresses import tunnel_url
from llorch.orchestratord.demand_file import Profile
from llorch.orchestratord.metrics import LoadFigures
from llorch.orchestratord.tunnels import Tunnels
from llorch.wire import strict_json

logger = log.get(__name__)

FACTS_EVERY_S = 60.0
FACTS_LIMIT_S = 30.0
GRACE_S = 30.0
REASON_MAX = 500
LIMIT_MARGIN_S = 15.0  # the command keeps its own limit; ours is for one that does not
_PERCENT = re.compile(rb": (\d{1,3}) %\s*$")
Command = SpawnWorker | StopWorker | ReadPool


class Actuator:
    """The hands of the brain on every pool."""

    def __init__(
        self,
        group: asyncio.TaskGroup,
        post: Callable[[Event], None],
        figures: LoadFigures,
        worker_token: str,
        orchestrator: Callable[[], str],
        *,
        only_loopback: bool,
        tunnels: Tunnels,
        take_in: Callable[[str, str], Awaitable[object]],
    ) -> None:
        """`orchestrator` is our URL on this host; `only_loopback`: nobody else can reach it.

        `take_in` uses the worker at a URL from now on; the other string is a correlation id.
        """
        self._group = group
        self._post = post
        self._figures = figures
        self._token = worker_token
        self._orchestrator = orchestrator
        self._only_loopback = only_loopback
        self.tunnels, self._take_in = tunnels, take_in
        self._profiles: Mapping[PoolId, Profile] = {}
        self._hands: dict[PoolId, _Hand] = {}
        self._watched = False

    def set_pools(self, profiles: Mapping[PoolId, Profile], *, watched: bool) -> None:
        """The pools that are there from now on; `watched` ones are read at once and then every minute."""
        self._profiles, self._watched = profiles, watched
        self.tunnels.set_pools(profiles, self._group)
        if watched:
            for pool in profiles:
                self._hand(pool).give(ReadPool(pool))

    def knows(self, pool: PoolId) -> bool:
        """May commands be given to this pool?"""
        return pool in self._profiles

    def carry_out(self, effect: Effect) -> None:
        """Begin with an effect of ours; comes back at once."""
        if isinstance(effect, WakePool):
            self._wake(effect)
        elif isinstance(effect, SpawnWorker | StopWorker | ReadPool):
            self._hand(effect.pool).give(effect)

    async def close(self) -> None:
        """End every command under way, and wait until they have undone what they began."""
        tasks = [hand.task for hand in self._hands.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self.tunnels.close()

    def _hand(self, pool: PoolId) -> _Hand:
        hand = self._hands.get(pool)
        if hand is None:
            hand = self._hands[pool] = _Hand(pool, self)
            hand.task = self._group.create_task(hand.work(), name=f"pool {pool}")
        return hand

    def _wake(self, effect: WakePool) -> None:
        profile = self._profiles.get(effect.pool)
        if profile is None or profile.mac is None:
            return
        self._figures.wakes.add()
        log.event(logger, "waking a pool", pool=effect.pool)
        try:
            wake.send(profile.mac)
        except LlorchError as error:
            log.event(logger, f"the pool cannot be woken: {error.message}", level=logging.ERROR, pool=effect.pool)

    # One command on one pool, called by its hand

    async def run(self, command: Command) -> None:
        """One command and the facts after it. Never raises what the world did."""
        profile = self._profiles.get(command.pool)
        if profile is None:
            self._fail(command, PoolUnavailable(f"pool {command.pool} is not in the configuration"))
            return
        try:
            async with open_session(profile.target) as session:
                await self._do(command, session)
                self._post(await self._facts(command.pool, profile, session))
        except LlorchError as error:
            self._fail(command, error)
            self._post(pool_report.unreachable(command.pool, error.message, wakeable=profile.mac is not None))

    async def _do(self, command: Command, session: PoolSession) -> None:
        if isinstance(command, SpawnWorker):
            await self._spawn(command, session, self._profiles[command.pool])
        elif isinstance(command, StopWorker):
            await self._stop(command, session)

    def _fail(self, command: Command, error: LlorchError) -> None:
        """The pool was not reached, or the connection broke."""
        if isinstance(command, SpawnWorker):
            self._failed(command, error.code, error.message)
        elif isinstance(command, StopWorker):
            self._post(StopFailed(command.worker_id, error.message))

    def _failed(self, command: SpawnWorker, code: str, reason: str) -> None:
        self._figures.spawns.add(value="failed")
        log.event(logger, f"a worker could not be started: {reason}", level=logging.WARNING, worker=_about(command))
        self._post(SpawnFailed(command.worker_id, code, reason))

    async def _spawn(self, command: SpawnWorker, session: PoolSession, profile: Profile) -> None:
        log.event(
            logger, "starting a worker", cause=command.cause.value, attempt=command.attempt, worker=_about(command)
        )
        self._figures.swaps.add(float(command.swaps))
        began = time.monotonic()
        tunnelled = profile.target is not None and profile.target.tunnel
        line = self._tunnel_line(command.pool) if tunnelled else await self._line(session)
        words = ["worker", "spawn", command.backend, "--model", command.model, "--worker-id", command.worker_id]
        words += [] if command.gpu is None else ["--gpu", str(command.gpu)]
        words += ["--timeout", f"{command.limit_s:g}", "--json", callback.STDIN_FLAG]
        self._post(SpawnStarted(command.worker_id))
        heard = _Progress(lambda share: self._post(SpawnProgressed(command.worker_id, share)))
        done = await self._limited(session, words, command.limit_s + LIMIT_MARGIN_S, line, heard.feed)
        if done.exit_code == 0:
            self._figures.spawns.add(value="ready")
            self._figures.load_s.observe(time.monotonic() - began)
            if tunnelled:
                await self._take_in_spawned(command, done.out)
            self._post(SpawnReady(command.worker_id))
        else:
            self._failed(command, *_why(done))

    async def _line(self, session: PoolSession) -> bytes:
        """What the pool is told of us and of the worker's address. Raises PoolUnavailable."""
        ends = await session.ends()
        if self._only_loopback and not is_loopback(ends.server):
            said = "workers there cannot reach it: see --bind, or set tunnel = true for the pool"
            raise PoolUnavailable(f"orchestratord listens on loopback only: {said}")
        url = callback.url_for(self._orchestrator(), ends.local, ends.server)
        if url is None:
            why = "it is behind a jump host or proxy (tunnel = true for the pool helps)"
            raise PoolUnavailable(f"the pool does not see this machine's address: {why}")
        return callback.stdin_line(self._token, url, ends.server)

    def _tunnel_line(self, pool: PoolId) -> bytes:
        """For a worker that stays on its loopback and announces itself nowhere. Raises PoolUnavailable."""
        self.tunnels.must_be_open(pool)
        return callback.stdin_line(self._token, callback.NOBODY, callback.LOOPBACK)

    async def _take_in_spawned(self, command: SpawnWorker, printed: bytes) -> None:
        """It will not announce itself, so it is asked. Raises WorkerUnavailable when it is not reached."""
        try:
            port = strict_json.parse_object(printed)["worker"]["port"]
            url = tunnel_url(command.pool, int(port))
        except (InvalidRequest, KeyError, TypeError, ValueError):
            raise errors.HostError("llorch-pool there does not answer 'worker spawn' as this version does") from None
        await self._take_in(url, ids.correlation_id(None))

    async def _stop(self, command: StopWorker, session: PoolSession) -> None:
        log.event(logger, "stopping a worker", cause=command.cause.value, worker=_about(command))
        grace_s = min(GRACE_S, command.limit_s)
        words = ["worker", "stop", command.worker_id, "--grace", f"{grace_s:g}", "--json"]
        done = await self._limited(session, words, command.limit_s + LIMIT_MARGIN_S)
        if done.exit_code in (0, errors.WorkerNotFound.exit_code):
            if command.cause is StopCause.ROOM:
                self._figures.evictions.add()
            self._figures.stops.add(value=command.cause.value)
            self._post(WorkerStopped(command.worker_id))
        else:
            self._post(StopFailed(command.worker_id, done.complaint))

    async def _limited(
        self,
        session: PoolSession,
        words: list[str],
        limit_s: float,
        stdin: bytes = b"",
        heard: Callable[[bytes], None] | None = None,
    ) -> Done:
        """Raises TryLater when it takes longer."""
        try:
            async with asyncio.timeout(limit_s):
                return await session.run(words, stdin=stdin, heard=heard)
        except TimeoutError:
            raise errors.TryLater(f"'llorch-pool {' '.join(words[:2])}' took longer than {limit_s:g} s") from None

    async def _facts(self, pool: PoolId, profile: Profile, session: PoolSession) -> PoolRead:
        """What the pool says of itself. Raises HostError when it says nothing that can be read."""
        done = await self._limited(session, ["status", "--json"], FACTS_LIMIT_S)
        if done.exit_code != 0:
            raise errors.HostError(done.complaint)
        try:
            body = strict_json.parse_object(done.out)
        except InvalidRequest:
            raise errors.HostError("llorch-pool there does not answer 'status --json' as this version does") from None
        return pool_report.facts_of(
            pool,
            body,
            profile.labels,
            wakeable=profile.mac is not None,
            memory_max_bytes=profile.memory_max_bytes,
        )

    @property
    def watched(self) -> bool:
        """Are pools read from time to time?"""
        return self._watched


def _why(done: Done) -> tuple[str, str]:
    """Code and reason of a spawn that failed: its own words, or the last line of its complaint."""
    try:
        told = strict_json.parse_object(done.out).get("error")
    except InvalidRequest:
        told = None
    if not isinstance(told, dict):
        return errors.HostError.code, done.complaint
    code, reason = told.get("code"), told.get("message")
    known = code if isinstance(code, str) else errors.HostError.code
    return known, reason[:REASON_MAX] if isinstance(reason, str) else done.complaint


def _about(command: SpawnWorker | StopWorker) -> str:
    return f"{command.worker_id} of {command.model} on pool {command.pool}"


class _Hand:
    """The commands of one pool, one after another; its facts every minute while there is nothing else to do."""

    task: asyncio.Task[None]

    def __init__(self, pool: PoolId, actuator: Actuator) -> None:
        self._pool = pool
        self._actuator = actuator
        self._commands: deque[Command] = deque()
        self._given = asyncio.Event()

    def give(self, command: Command) -> None:
        """Do this after what was given before; facts are read after each command anyway."""
        if not isinstance(command, ReadPool) or not self._commands:
            self._commands.append(command)
            self._given.set()

    async def work(self) -> None:
        """Take commands for ever."""
        while True:
            try:
                async with asyncio.timeout(FACTS_EVERY_S):
                    await self._given.wait()
            except TimeoutError:
                if self._actuator.watched and self._actuator.knows(self._pool):
                    self._commands.append(ReadPool(self._pool))
            self._given.clear()
            while self._commands:
                await self._actuator.run(self._commands.popleft())


class _Progress:
    """Finds `… 40 %` at the ends of lines as they come in pieces."""

    def __init__(self, told: Callable[[float], None]) -> None:
        self._told = told
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Bytes of stderr."""
        *lines, self._rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        self._rest = self._rest[-1000:]
        for line in lines:
            if found := _PERCENT.search(line):
                self._told(min(1.0, int(found[1]) / 100))
