"""What pools say of themselves: the last `llorch-pool status --json` of each, asked again when somebody wants it fresh.

Our own host is pool `local` and asked without SSH. Others are asked over SSH only where llorch.toml has a profile for
them: a client of the API must not choose whom this machine logs in to.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llorch.base.addresses import is_loopback
from llorch.base.errors import HostError, InvalidRequest, LlorchError, NotFound
from llorch.base.ids import PoolId
from llorch.host import pool_session
from llorch.host.targets import SshTarget, find_target
from llorch.orchestratord.addresses import is_own
from llorch.wire import strict_json

LOCAL = PoolId("local")
ASK_TIMEOUT_S = 20.0
ASKED_AT_ONCE_MAX = 8
AGE_MIN_S = 1.0  # nobody makes us log in more often than that


@dataclass(frozen=True, slots=True)
class Known:
    """The last facts of a pool with their time (monotonic seconds), and why the last attempt failed."""

    facts: dict[str, Any] | None = None
    read_at: float = 0.0
    error: str | None = None
    asked_at: float = 0.0

    def body(self, now: float) -> dict[str, Any]:
        """As `GET /v2/pools` shows it."""
        age = None if self.facts is None else round(now - self.read_at, 1)
        return {"facts": self.facts, "facts_age_s": age, "facts_error": self.error}


NOTHING = Known()


def is_local(pool_id: PoolId) -> bool:
    """Does the pool's name mean the host we run on?"""
    return pool_id == LOCAL or is_loopback(pool_id) or is_own(pool_id)


class PoolFacts:
    """The cache; asks for one pool at most once at a time."""

    def __init__(self, config: Callable[[], Mapping[str, Any]], group: asyncio.TaskGroup) -> None:
        """`config` gives what llorch.toml says now."""
        self._config = config
        self._group = group
        self._known: dict[PoolId, Known] = {}
        self._asking: dict[PoolId, asyncio.Task[None]] = {}
        self._turn = asyncio.Semaphore(ASKED_AT_ONCE_MAX)

    def known(self, pool_id: PoolId) -> Known:
        """What is known now, without asking."""
        return self._known.get(LOCAL if is_local(pool_id) else pool_id, NOTHING)

    async def refresh(self, pool_ids: Iterable[PoolId], *, age_max_s: float, wait_s: float) -> None:
        """Ask those whose facts are older; comes back after `wait_s` at the latest, while slow ones are asked on."""
        now = time.monotonic()
        wanted = {LOCAL if is_local(pool_id) else pool_id for pool_id in pool_ids}
        tasks = [self._ask_soon(pool_id) for pool_id in sorted(wanted) if self._is_old(pool_id, now, age_max_s)]
        if tasks:
            await asyncio.wait(tasks, timeout=wait_s)

    def forget_others(self, kept: Collection[PoolId]) -> None:
        """Pools that are gone need no room."""
        for pool_id in [known for known in self._known if known not in kept and known != LOCAL]:
            del self._known[pool_id]

    def _is_old(self, pool_id: PoolId, now: float, age_max_s: float) -> bool:
        known = self._known.get(pool_id, NOTHING)
        if known is not NOTHING and now - known.asked_at < AGE_MIN_S:
            return pool_id in self._asking
        return known.facts is None or now - known.read_at > age_max_s

    def _ask_soon(self, pool_id: PoolId) -> asyncio.Task[None]:
        task = self._asking.get(pool_id)
        if task is None:
            task = self._asking[pool_id] = self._group.create_task(self._ask(pool_id), name=f"facts of {pool_id}")
        return task

    async def _ask(self, pool_id: PoolId) -> None:
        before = self._known.get(pool_id, NOTHING)
        asked_at = time.monotonic()
        try:
            async with self._turn:
                target = None if pool_id == LOCAL else self._target(pool_id)
                printed = await pool_session.output(target, ["status", "--json"], timeout_s=ASK_TIMEOUT_S)
            self._known[pool_id] = Known(_parsed(pool_id, printed), time.monotonic(), None, asked_at)
        except LlorchError as error:
            self._known[pool_id] = Known(before.facts, before.read_at, error.message, asked_at)
        finally:
            del self._asking[pool_id]

    def _target(self, pool_id: PoolId) -> SshTarget:
        """The profile that is named as the pool, or whose host is. Raises NotFound, ConfigError."""
        file = self._config()
        for name, profile in file.get("pools", {}).items():
            if pool_id in (name.lower(), str(profile.get("host", name)).lower()):
                return find_target(name, file)
        raise NotFound(f"no profile for {pool_id} in llorch.toml: llorch pool register NAME --host {pool_id}")


def _parsed(pool_id: PoolId, printed: bytes) -> dict[str, Any]:
    """The object that llorch-pool printed. Raises HostError for anything else."""
    try:
        return strict_json.parse_object(printed)
    except InvalidRequest:
        raise HostError(f"{pool_id}: llorch-pool there does not answer 'status --json' as this version does") from None
