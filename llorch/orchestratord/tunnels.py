"""The tunnels to pools whose workers stay on their own loopback, and the URLs under which such workers are known here.

A worker behind a tunnel is `http://POOL.tunnel.invalid:PORT` to all of orchestratord: a name that exists nowhere, so
that only the tunnel of that pool can be meant by it (see addresses.may_announce).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from llorch.base.errors import PoolNotFound, PoolUnavailable
from llorch.base.ids import PoolId
from llorch.host.targets import SshTarget
from llorch.host.tunnel import Tunnel
from llorch.orchestratord.addresses import tunnelled_pool
from llorch.orchestratord.demand_file import Profile


@dataclass(frozen=True, slots=True)
class _Kept:
    tunnel: Tunnel
    task: asyncio.Task[None]


class Tunnels:
    """One for each pool of llorch.toml that says `tunnel = true`."""

    def __init__(self) -> None:
        self._kept: dict[PoolId, _Kept] = {}

    def set_pools(self, profiles: Mapping[PoolId, Profile], group: asyncio.TaskGroup) -> None:
        """Open and close what the configuration now says; a tunnel whose profile is as it was stays open."""
        wanted = {pool: p.target for pool, p in profiles.items() if p.target is not None and p.target.tunnel}
        for pool in [pool for pool, kept in self._kept.items() if kept.tunnel.target != wanted.get(pool)]:
            self._kept.pop(pool).task.cancel()
        for pool, target in wanted.items():
            if pool not in self._kept:
                self._kept[pool] = self._begin(pool, target, group)

    def _begin(self, pool: PoolId, target: SshTarget, group: asyncio.TaskGroup) -> _Kept:
        tunnel = Tunnel(target)
        return _Kept(tunnel, group.create_task(tunnel.run(), name=f"tunnel to {pool}"))

    def close(self) -> None:
        """Let them go."""
        for kept in self._kept.values():
            kept.task.cancel()

    def pools(self) -> list[PoolId]:
        """Those that have one, open or not."""
        return list(self._kept)

    def body(self, pool: PoolId) -> dict[str, object] | None:
        """As `GET /v2/pools` shows it; None: the pool has none."""
        kept = self._kept.get(pool)
        return None if kept is None else {"open": kept.tunnel.is_open, "error": kept.tunnel.error}

    def must_be_open(self, pool: PoolId) -> None:
        """Raises PoolNotFound, PoolUnavailable with the reason."""
        kept = self._kept.get(pool)
        if kept is None:
            raise PoolNotFound(f"llorch.toml has no tunnel to '{pool[:96]}': set tunnel = true in [pools.{pool[:96]}]")
        if not kept.tunnel.is_open:
            raise PoolUnavailable(kept.tunnel.error or f"{pool}: the tunnel is being opened")

    async def connect(self, host: str, port: int) -> socket.socket:
        """To a worker's port, by the host of its URL. Raises OSError."""
        pool = tunnelled_pool(host)
        kept = None if pool is None else self._kept.get(pool)
        if kept is None:
            raise ConnectionRefusedError(f"there is no tunnel to {host}")
        return await kept.tunnel.connect(port)
