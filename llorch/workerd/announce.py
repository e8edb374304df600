"""Tells the orchestrator that this worker is ready, then that it still is; for ever, while the worker serves anyway.

The orchestrator is looked for anew on every attempt, so that one that starts later, moves or restarts is found.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit

import aiohttp

from llorch.base import log
from llorch.wire.announce import HEARTBEAT_S, Announcement, Heartbeat
from llorch.workerd.target import Target, reachable_url

ANSWER_TIMEOUT_S = 5.0
# Two packets that ask for a connection are sent in this time. With the longest pause it bounds how long a worker that
# was cut off, for however long, stays away once the network is back: the two and a lost packet are below 5 s.
CONNECT_TIMEOUT_S = 2.0
BACKOFF_FIRST_S = 0.25
BACKOFF_MAX_S = 2.0
MISSES_MAX = 3
_log = log.get(__name__)


class Announcer:
    """Runs as one task of the daemon. `told` carries changes that should not wait for the next heartbeat."""

    def __init__(
        self,
        find: Callable[[], Target | None],
        announcement: Callable[[], Announcement],
        heartbeat: Callable[[], Heartbeat],
        *,
        bind: str,
        token: str | None,
        told: asyncio.Event,
    ) -> None:
        self._find = find
        self._announcement = announcement
        self._heartbeat = heartbeat
        self._bind = bind
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._told = told
        self._complaint = ""
        self._jitter = random.Random()

    async def run(self) -> None:
        """Announce and renew until cancelled."""
        timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        async with aiohttp.ClientSession(headers=self._headers, timeout=timeout, trust_env=False) as session:
            wait_s = BACKOFF_FIRST_S
            while True:
                target = self._find()
                if target is not None and await self._announce(session, target):
                    if target.base is None:
                        return
                    wait_s = BACKOFF_FIRST_S
                    await self._renew(session, target, target.base)
                await asyncio.sleep(wait_s * (0.5 + self._jitter.random() / 2))
                wait_s = min(wait_s * 2, BACKOFF_MAX_S)

    async def _announce(self, session: aiohttp.ClientSession, target: Target) -> bool:
        announcement = self._announcement()
        port = urlsplit(announcement.url).port or 0
        url = await asyncio.to_thread(reachable_url, self._bind, port, target)
        status = await self._post(session, target.ready_url, replace(announcement, url=url).to_body())
        if status is not None and 200 <= status < 300:
            self._complaint = ""
            log.event(_log, "announced", to=target.ready_url, url=url)
            return True
        self._complain("no answer" if status is None else f"answered {status}", target.ready_url)
        return False

    async def _renew(self, session: aiohttp.ClientSession, target: Target, base: str) -> None:
        """Heartbeats until the orchestrator does not know us any more, is silent, or another one is to be used."""
        url = f"{base}/v2/workers/{self._announcement().worker_id}/heartbeat"
        misses = 0
        while misses < MISSES_MAX:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._told.wait()
            self._told.clear()  # before the heartbeat is made, so that a change during it rings again
            status = await self._post(session, url, self._heartbeat().to_body())
            misses = 0 if status is not None and status < 300 else misses + 1
            if status == 404 or (misses and self._find() != target):
                return

    async def _post(self, session: aiohttp.ClientSession, url: str, body: dict[str, object]) -> int | None:
        """The status, None when there is no answer. Redirects are not followed: the token goes nowhere else."""
        try:
            async with session.post(url, json=body, allow_redirects=False) as response:
                return response.status
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None

    def _complain(self, reason: str, where: str) -> None:
        """Say once what is wrong, not once a second."""
        complaint = f"{reason} {where}"
        if complaint != self._complaint:
            self._complaint = complaint
            log.event(_log, "not announced", logging.WARNING, reason=reason, to=where)
