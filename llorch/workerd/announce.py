"""Tells the orchestrator that this worker is ready, then that it still is; for ever, while the worker serves anyway.

The orchestrator is looked for anew on every attempt, so that one that starts later, moves or restarts is found.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from llorch.base import addresses, log
from llorch.base.errors import ConfigError
from llorch.wire.announce import HEARTBEAT_S, Announcement, Heartbeat

READY_PATH = "/v2/workers/ready"
_READY_PATHS = (READY_PATH, "/workers/ready", "/workers/register")
STATE_FILE_NAME = "orchestratord.json"
STATE_SIZE_MAX = 1 << 16
ANSWER_TIMEOUT_S = 5.0
BACKOFF_FIRST_S = 0.25
BACKOFF_MAX_S = 5.0
MISSES_MAX = 3
_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """Where to announce; `base` None is a foreign callback that takes no heartbeats."""

    ready_url: str
    base: str | None


def target_of(url: str) -> Target:
    """A callback URL as it is; without a path, the orchestrator's ready path. Raises ConfigError."""
    if "://" not in url:
        url = "http://" + url
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname is not None and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError("the orchestrator's URL must look like http://HOST:PORT")
    if parts.path.strip("/") == "":
        base = f"{parts.scheme}://{parts.netloc}"
        return Target(base + READY_PATH, base)
    known = next((path for path in _READY_PATHS if parts.path.endswith(path)), None)
    return Target(url, url.partition(known)[0] if known else None)


def finder(callback_url: str | None, orchestrator: str | None, state_dir: Path) -> Callable[[], Target | None]:
    """How the orchestrator is found: callback, configuration, else the file that this user's orchestratord keeps."""
    named = callback_url or orchestrator
    if named is not None:
        target = target_of(named)
        return lambda: target
    return lambda: read_state_file(state_dir / STATE_FILE_NAME)


def read_state_file(path: Path) -> Target | None:
    """The orchestratord that wrote this file, if it can be read."""
    try:
        with open(path, "rb") as file:
            url = json.loads(file.read(STATE_SIZE_MAX))["url"]
        return target_of(url) if isinstance(url, str) else None
    except (OSError, ValueError, KeyError, TypeError, ConfigError):
        return None


def reachable_url(bind: str, port: int, target: Target | None) -> str:
    """Our URL as the orchestrator can reach it: the bound address, or for a wildcard the one our packets leave from."""
    address = addresses.parse(bind)
    own = _own_address(target) if address is not None and address.is_unspecified else None
    return addresses.local_url(own or bind, port)


def _own_address(target: Target | None) -> str | None:
    if target is None:
        return None
    parts = urlsplit(target.ready_url)
    try:
        rows = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_DGRAM)
        with socket.socket(rows[0][0], socket.SOCK_DGRAM) as probe:
            probe.connect(rows[0][4])  # no packet is sent: it only asks the routing table
            return str(probe.getsockname()[0])
    except OSError:
        return None


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
        timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
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
