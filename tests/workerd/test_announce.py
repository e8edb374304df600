"""Announcing: where the orchestrator is looked for, and how it is told again after it forgot or moved."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from llorch.base.errors import ConfigError
from llorch.wire.announce import Announcement, Heartbeat, parse_announcement, parse_heartbeat
from llorch.workerd import announce
from llorch.workerd.announce import Announcer
from llorch.workerd.target import Target, finder, reachable_url, read_state_file, target_of

ANNOUNCEMENT = Announcement("w-1", "http://127.0.0.1:8001", "tiny", "cpu", 2, 128, 1000, 1, "0.1", {})
REAL_CONNECT_TIMEOUT_S, REAL_BACKOFF_MAX_S = announce.CONNECT_TIMEOUT_S, announce.BACKOFF_MAX_S
HEARTBEAT = Heartbeat(1, 2, 3.5, "ready", 1000, ("j",))


class Orchestrator:
    """What an orchestratord does with announcements: knows who announced, 404 for others, checks the token."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.seen: list[str] = []
        self.changed = asyncio.Event()
        self.token: str | None = None
        self._runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> int:
        app = web.Application()
        app.router.add_post("/v2/workers/ready", self.ready)
        app.router.add_post("/callback", self.ready)
        app.router.add_post("/v2/workers/{id}/heartbeat", self.heartbeat)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def _note(self, what: str) -> None:
        self.seen.append(what)
        self.changed.set()

    async def ready(self, request: web.Request) -> web.Response:
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            self._note("refused")
            return web.Response(status=401)
        said = parse_announcement(await request.json())
        self.known.add(said.worker_id)
        self._note(f"ready {said.url}")
        return web.json_response({})

    async def heartbeat(self, request: web.Request) -> web.Response:
        parse_heartbeat(await request.json())
        known = request.match_info["id"] in self.known
        self._note("heartbeat" if known else "unknown")
        return web.Response(status=200 if known else 404)

    async def until(self, *whats: str) -> None:
        """Wait until these were seen in this order, other things between allowed."""
        while True:
            self.changed.clear()
            rest = iter(self.seen)
            if all(any(seen.startswith(what) for seen in rest) for what in whats):
                return
            await self.changed.wait()


def announcing(find: Callable[[], Target | None], token: str | None = None) -> tuple[Announcer, asyncio.Event]:
    """An announcer of a worker on loopback, and its bell."""
    told = asyncio.Event()
    made = Announcer(find, lambda: ANNOUNCEMENT, lambda: HEARTBEAT, bind="127.0.0.1", token=token, told=told)
    return made, told


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine with a deadline."""
    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same protocol, faster."""
    monkeypatch.setattr(announce, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(announce, "BACKOFF_FIRST_S", 0.02)
    monkeypatch.setattr(announce, "BACKOFF_MAX_S", 0.1)


def test_announces_then_renews_and_again_when_forgotten(tmp_path: Path) -> None:
    """ready, heartbeats; a 404 on a heartbeat (the orchestrator lost its memory) means ready again."""

    async def main() -> None:
        orchestrator = Orchestrator()
        port = await orchestrator.start()
        announcer, _ = announcing(finder(None, f"127.0.0.1:{port}", tmp_path))
        task = asyncio.ensure_future(announcer.run())
        await orchestrator.until("ready http://127.0.0.1:8001", "heartbeat", "heartbeat")
        orchestrator.known.clear()
        await orchestrator.until("heartbeat", "unknown", "ready", "heartbeat")
        task.cancel()
        await orchestrator.stop()

    run(main)


def test_the_host_s_orchestratord_is_found_whenever_it_starts(tmp_path: Path) -> None:
    """No orchestrator at first; one writes its file; it goes, and another one on another port writes a new file."""

    async def main() -> None:
        file = tmp_path / "orchestratord.json"
        announcer, _ = announcing(finder(None, None, tmp_path))
        task = asyncio.ensure_future(announcer.run())
        await asyncio.sleep(0.05)
        for _ in range(2):
            orchestrator = Orchestrator()
            url = f"http://127.0.0.1:{await orchestrator.start()}"
            file.write_text(json.dumps({"url": url, "pid": 1, "started_at": 0}))
            await orchestrator.until("ready", "heartbeat")
            await orchestrator.stop()
            file.unlink()
        task.cancel()

    run(main)


def test_a_foreign_callback_is_told_once(tmp_path: Path) -> None:
    """A callback URL with a path of its own is used as it is and gets no heartbeats."""

    async def main() -> None:
        orchestrator = Orchestrator()
        port = await orchestrator.start()
        announcer, _ = announcing(finder(f"http://127.0.0.1:{port}/callback", None, tmp_path))
        await announcer.run()
        assert orchestrator.seen == ["ready http://127.0.0.1:8001"]
        await orchestrator.stop()

    run(main)


def test_the_token_is_shown_and_refusals_are_retried(tmp_path: Path) -> None:
    """A wrong token is retried with back-off, for ever; the right one is accepted."""

    async def main() -> None:
        orchestrator = Orchestrator()
        orchestrator.token = "right"
        port = await orchestrator.start()
        for token, expected in (("wrong", ("refused", "refused")), ("right", ("ready", "heartbeat"))):
            announcer, _ = announcing(finder(f"http://127.0.0.1:{port}", None, tmp_path), token)
            task = asyncio.ensure_future(announcer.run())
            await orchestrator.until(*expected)
            task.cancel()
        await orchestrator.stop()

    run(main)


def test_a_change_does_not_wait_for_the_next_heartbeat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ringing the bell sends a heartbeat at once: a draining worker gets no new jobs."""
    monkeypatch.setattr(announce, "HEARTBEAT_S", 60.0)

    async def main() -> None:
        orchestrator = Orchestrator()
        port = await orchestrator.start()
        announcer, told = announcing(finder(f"http://127.0.0.1:{port}", None, tmp_path))
        task = asyncio.ensure_future(announcer.run())
        await orchestrator.until("ready")
        await asyncio.sleep(0.1)
        told.set()
        await orchestrator.until("ready", "heartbeat")
        task.cancel()
        await orchestrator.stop()

    run(main)


@contextlib.contextmanager
def swallowing(port: int) -> Iterator[None]:
    """Who connects to the port hears nothing, as from behind a pulled cable: the queue of a listener is full."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server(("127.0.0.1", port), backlog=0))
        for _ in range(4):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        yield


def test_an_orchestrator_that_is_silent_is_asked_again_and_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where nothing gets through, no attempt to connect outlives CONNECT_TIMEOUT_S: one that is back is told soon."""
    monkeypatch.setattr(announce, "CONNECT_TIMEOUT_S", 0.1)

    async def main() -> None:
        orchestrator = Orchestrator()
        port = await orchestrator.start()
        await orchestrator.stop()
        target, attempts = target_of(f"http://127.0.0.1:{port}"), asyncio.Semaphore(0)

        def find() -> Target:
            attempts.release()
            return target

        announcer, _ = announcing(find)
        with swallowing(port):
            task = asyncio.ensure_future(announcer.run())
            async with asyncio.timeout(announce.ANSWER_TIMEOUT_S):
                for _ in range(4):
                    await attempts.acquire()
        await orchestrator.start(port)
        await orchestrator.until("ready")
        task.cancel()
        await orchestrator.stop()

    run(main)


def test_a_worker_that_was_away_is_back_within_5_s() -> None:
    """Contract: rejoins within 5 s. An attempt that just fails, the longest pause, and one packet lost (1 s)."""
    assert REAL_CONNECT_TIMEOUT_S + REAL_BACKOFF_MAX_S + 1.0 <= 5.0


@pytest.mark.parametrize(
    ("url", "ready_url", "base"),
    [
        ("http://h:8080", "http://h:8080/v2/workers/ready", "http://h:8080"),
        ("h:8080/", "http://h:8080/v2/workers/ready", "http://h:8080"),
        ("https://h/pre/v2/workers/ready", "https://h/pre/v2/workers/ready", "https://h/pre"),
        ("http://h:1/workers/register", "http://h:1/workers/register", "http://h:1"),
        ("http://pool-manager:9200/callback", "http://pool-manager:9200/callback", None),
    ],
)
def test_targets(url: str, ready_url: str, base: str | None) -> None:
    """The exact URL; without a path, the orchestrator's ready path."""
    assert target_of(url) == Target(ready_url, base)


@pytest.mark.parametrize("url", ["ftp://h", "http://", "http://h:0", "http://h:99999", "http://[::1"])
def test_bad_targets(url: str) -> None:
    """A URL that cannot be one is refused at the start."""
    with pytest.raises(ConfigError):
        target_of(url)


def test_order_of_finding(tmp_path: Path) -> None:
    """Callback, then configuration, then the file of this host's orchestratord."""
    (tmp_path / "orchestratord.json").write_text('{"url": "http://file:1", "pid": 1, "started_at": 0}')
    assert finder("http://call:1", "http://conf:1", tmp_path)() == target_of("http://call:1")
    assert finder(None, "http://conf:1", tmp_path)() == target_of("http://conf:1")
    assert finder(None, None, tmp_path)() == target_of("http://file:1")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": 5}', '{"url": "ftp://x"}', '{"pid": 1}'])
def test_a_damaged_state_file_is_no_orchestrator(tmp_path: Path, text: str) -> None:
    """A half-written or foreign file means: look again later."""
    path = tmp_path / "orchestratord.json"
    path.write_text(text)
    assert read_state_file(path) is None and read_state_file(tmp_path / "none") is None


def test_reachable_url() -> None:
    """A bound address is announced as it is; a wildcard as the address our packets leave from."""
    assert reachable_url("127.0.0.1", 8001, None) == "http://127.0.0.1:8001"
    assert reachable_url("::1", 8001, None) == "http://[::1]:8001"
    assert reachable_url("0.0.0.0", 8001, target_of("http://127.0.0.1:8080")) == "http://127.0.0.1:8001"
    assert reachable_url("0.0.0.0", 8001, None) == "http://127.0.0.1:8001"
