"""A tunnel to a pool's loopback through a real sshd: bytes arrive, a broken link is made again, refusals say why."""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from llorch.host.targets import SshTarget
from llorch.host.tunnel import Tunnel
from tests.remote.link import Link
from tests.remote.sshd import SSHD, Sshd, running_sshd

pytestmark = pytest.mark.skipif(not SSHD.exists(), reason="needs OpenSSH's server: apt-get install openssh-server")


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def link(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    """A link to the server that the client's home knows the key of."""
    monkeypatch.setenv("HOME", str(sshd.home))
    with Link(sshd.port) as made:
        sshd.known_hosts.write_text(f"[127.0.0.1]:{made.port} {sshd.host_key}\n")
        yield made


def target(sshd: Sshd, port: int) -> SshTarget:
    sshd.write_config(f"Host *\n  IdentityFile {sshd.home}/.ssh/id_ed25519\n")
    return SshTarget("den", "127.0.0.1", getpass.getuser(), port, tunnel=True)


async def until(condition: Callable[[], object], limit_s: float = 20.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110  (no event tells of it)
            await asyncio.sleep(0.02)


@asynccontextmanager
async def kept(tunnel: Tunnel) -> AsyncIterator[None]:
    """The tunnel, held open inside."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(tunnel.run())
        try:
            yield
        finally:
            task.cancel()


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """A server on loopback that sends back what it gets; its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield int(server.sockets[0].getsockname()[1])


async def said_back(tunnel: Tunnel, port: int, data: bytes) -> bytes:
    """What comes back of `data`."""
    reader, writer = await asyncio.open_unix_connection(sock=await tunnel.connect(port))
    sending = asyncio.get_running_loop().create_task(_send(writer, data))
    got = await reader.readexactly(len(data))
    await sending
    writer.close()
    return got


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


def run(work: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await work

    asyncio.run(bounded())


def test_bytes_arrive_unchanged_and_many_at_once(sshd: Sshd, link: Link) -> None:
    """Megabytes both ways over several channels of one connection; no socket of ours listens."""

    async def story() -> None:
        tunnel = Tunnel(target(sshd, link.port))
        data = os.urandom(3 << 20)
        async with echo() as port, kept(tunnel):
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(said_back(tunnel, port, data)) for _ in range(4)]
            assert all(task.result() == data for task in tasks)
            assert link.opened == 1 and tunnel.is_open and tunnel.error is None

    run(story())


def test_a_cut_link_is_made_again(sshd: Sshd, link: Link) -> None:
    """Who is connected sees an end; who comes next waits a moment and is served."""

    async def story() -> None:
        tunnel = Tunnel(target(sshd, link.port))
        async with echo() as port, kept(tunnel):
            assert await said_back(tunnel, port, b"one") == b"one"
            reader, writer = await asyncio.open_unix_connection(sock=await tunnel.connect(port))
            link.cut()
            assert await reader.read() == b""
            writer.close()
            await until(lambda: not tunnel.is_open)
            assert await said_back(tunnel, port, b"two") == b"two"
            assert link.opened == 2

    run(story())


def test_a_silent_link_is_noticed(sshd: Sshd, link: Link) -> None:
    """Nothing passes and nobody says so: within seconds the connection is given up, and made again when it can be."""

    async def story() -> None:
        tunnel = Tunnel(target(sshd, link.port))
        async with echo() as port, kept(tunnel):
            assert await said_back(tunnel, port, b"one") == b"one"
            link.hush()
            await until(lambda: not tunnel.is_open, 15)
            with pytest.raises(OSError):
                await tunnel.connect(port)
            link.mend()
            await until(lambda: tunnel.is_open, 30)
            assert await said_back(tunnel, port, b"two") == b"two"

    run(story())


def test_a_port_without_a_listener_is_refused(sshd: Sshd, link: Link) -> None:
    """As TCP would refuse it, and the tunnel stays."""

    async def story() -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            unused = int(probe.getsockname()[1])
            tunnel = Tunnel(target(sshd, link.port))
            async with kept(tunnel):
                with pytest.raises(ConnectionRefusedError):
                    await tunnel.connect(unused)
                assert tunnel.is_open

    run(story())


def test_a_server_that_forbids_forwarding_is_told_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AllowTcpForwarding no: the reason and the line of sshd_config that mends it."""
    with running_sshd(tmp_path, more="AllowTcpForwarding no") as strict:
        monkeypatch.setenv("HOME", str(strict.home))

        async def story() -> None:
            tunnel = Tunnel(target(strict, strict.port))
            async with kept(tunnel):
                await until(lambda: tunnel.error)
                assert "forwards no ports" in str(tunnel.error) and "AllowTcpForwarding local" in str(tunnel.error)
                assert not tunnel.is_open

        run(story())
