"""One pool's loopback, reached through an SSH connection that is kept, and made again whenever it breaks.

Nothing listens for it, here or there: who wants a port of the pool's loopback gets one end of a socket pair, and the
other end is carried through a channel of the connection.
"""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from llorch.base import log
from llorch.base.errors import LlorchError, SshFailed
from llorch.host import runtime, ssh
from llorch.host.targets import SshTarget

if TYPE_CHECKING:
    import asyncssh

logger = log.get(__name__)

LOOPBACK = "127.0.0.1"
# A link that answers nothing for so long is made anew; a worker's lease is 5 s.
KEEPALIVE_INTERVAL_S = 2
KEEPALIVE_COUNT_MAX = 2
BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 15.0
CHANNEL_LIMIT_S = 3.0
# Asked for when the connection opens: whether a worker listens there or not, the answer tells if ports are forwarded.
PROBE_PORT = 8001
_FORBIDDEN = (
    "its SSH server forwards no ports for this user, which a tunnel needs: "
    "set 'AllowTcpForwarding local' (or yes) in its sshd_config, and allow the ports of workers if PermitOpen is set"
)


class Tunnel:
    """`error` says why it is not open; None: it is, or is being opened."""

    def __init__(self, target: SshTarget) -> None:
        self.target = target
        self.error: str | None = None
        self._open = asyncio.Event()
        self._connection: asyncssh.SSHClientConnection | None = None
        self._carriers: asyncio.TaskGroup | None = None

    @property
    def is_open(self) -> bool:
        """Is the connection there?"""
        return self._open.is_set()

    async def run(self) -> None:
        """Keep it open until cancelled."""
        wait_s = BACKOFF_FIRST_S
        while True:
            try:
                await self._hold()
            except LlorchError as error:
                wait_s = BACKOFF_FIRST_S if self._connection is not None else min(wait_s * 2, BACKOFF_MAX_S)
                self._connection = None
                if error.message != self.error:
                    log.event(logger, f"no tunnel: {error.message}", level=30)
                self.error = error.message
            await asyncio.sleep(wait_s * (0.5 + random.random() / 2))

    async def _hold(self) -> None:
        """One connection from its beginning to its end, which is always an error. Raises SshFailed."""
        await asyncio.to_thread(runtime.ensure, "net")
        async with ssh.connect(self.target) as remote:
            connection = remote.connection
            try:
                connection.set_keepalive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT_MAX)
                await _check_forwarding(self.target, connection)
                async with asyncio.TaskGroup() as carriers:
                    self._connection, self._carriers, self.error = connection, carriers, None
                    self._open.set()
                    log.event(logger, "tunnel open", pool=self.target.name)
                    await connection.wait_closed()
            finally:
                self._open.clear()
                self._carriers = None
                connection.abort()  # a link that is down would hold up an orderly end
        raise SshFailed(f"{self.target.name}: the connection was lost")

    async def connect(self, port: int) -> socket.socket:
        """A socket whose other end is the pool's loopback port; waits a little for a tunnel that is being made again.

        Raises OSError.
        """
        silent = f"{self.target.name}: the tunnel does not answer"
        try:
            async with asyncio.timeout(CHANNEL_LIMIT_S):
                await self._open.wait()
        except TimeoutError:
            raise ConnectionError(self.error or silent) from None
        assert self._connection is not None and self._carriers is not None
        carriers = self._carriers
        import asyncssh  # it is there once a connection was

        try:
            async with asyncio.timeout(CHANNEL_LIMIT_S):
                reader, writer = await self._connection.open_connection(LOOPBACK, port)
        except TimeoutError:
            raise ConnectionError(silent) from None
        except asyncssh.ChannelOpenError as error:
            raise ConnectionRefusedError(f"{self.target.name}: nothing listens on port {port}") from error
        except asyncssh.Error as error:
            raise ConnectionError(f"{self.target.name}: {error.reason}") from error
        if self._carriers is not carriers:
            raise ConnectionError(f"{self.target.name}: the connection was lost")
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        carriers.create_task(_carry(reader, writer, theirs))
        return ours


async def _check_forwarding(target: SshTarget, connection: asyncssh.SSHClientConnection) -> None:
    """Raises SshFailed with the way out when the server forbids what we need."""
    import asyncssh

    try:
        async with asyncio.timeout(CHANNEL_LIMIT_S):
            _, writer = await connection.open_connection(LOOPBACK, PROBE_PORT)
        writer.close()
    except asyncssh.ChannelOpenError as error:
        if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
            raise SshFailed(f"{target.name}: {_FORBIDDEN}") from error
    except (OSError, asyncssh.Error, TimeoutError) as error:
        raise SshFailed(f"{target.name}: the connection was lost") from error


async def _carry(reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes], sock: socket.socket) -> None:
    """Both directions, no faster than they are taken, until either side ends."""
    try:
        async with asyncio.TaskGroup() as both:
            ways = (both.create_task(_up(writer, sock)), both.create_task(_down(reader, sock)))
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
    finally:
        writer.close()
        sock.close()


async def _up(writer: asyncssh.SSHWriter[bytes], sock: socket.socket) -> None:
    import asyncssh

    with suppress(OSError, asyncssh.Error):
        while data := await asyncio.get_running_loop().sock_recv(sock, ssh.READ_SIZE_MAX):
            writer.write(data)
            await writer.drain()


async def _down(reader: asyncssh.SSHReader[bytes], sock: socket.socket) -> None:
    import asyncssh

    with suppress(OSError, asyncssh.Error):
        while data := await reader.read(ssh.READ_SIZE_MAX):
            await asyncio.get_running_loop().sock_sendall(sock, data)
