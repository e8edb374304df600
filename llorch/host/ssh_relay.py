"""One host's port made reachable on another host's loopback, through the SSH connections that we have to both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from llorch.base.errors import HostError
from llorch.host.ssh import READ_SIZE_MAX, Remote

if TYPE_CHECKING:
    import asyncssh

LOOPBACK = "127.0.0.1"
_Handler = Callable[[Any, Any], Awaitable[None]]


@asynccontextmanager
async def relayed(source: Remote, host: str, port: int, target: Remote) -> AsyncIterator[int]:
    """A port on `target`'s loopback; who connects to it is connected to host:port as `source` reaches it.

    Every byte goes through this process. Raises HostError when `target`'s SSH server forwards nothing.
    """
    import asyncssh

    def accept(orig_host: str, orig_port: int) -> _Handler:
        return lambda reader, writer: _connect(source.connection, host, port, reader, writer)

    try:
        listener = await target.connection.start_server(accept, LOOPBACK, 0)
    except (OSError, asyncssh.Error) as error:
        raise HostError(
            f"{target.target.name}: its SSH server forwards no port (AllowTcpForwarding), so nothing can be relayed"
        ) from error
    try:
        yield listener.get_port()
    finally:
        listener.close()
        await listener.wait_closed()


async def _connect(
    source: asyncssh.SSHClientConnection,
    host: str,
    port: int,
    reader: asyncssh.SSHReader[bytes],
    writer: asyncssh.SSHWriter[bytes],
) -> None:
    """Carry one connection; when `source` refuses it, the other side sees it closed."""
    import asyncssh

    try:
        there_reader, there_writer = await source.open_connection(host, port)
    except (OSError, asyncssh.Error):
        writer.close()
        return
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_carry(reader, there_writer))
            tasks.create_task(_carry(there_reader, writer))
    finally:
        writer.close()
        there_writer.close()


async def _carry(reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]) -> None:
    """One direction, no faster than it is taken; an end on either side ends it."""
    import asyncssh

    with suppress(OSError, asyncssh.Error):
        while data := await reader.read(READ_SIZE_MAX):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
