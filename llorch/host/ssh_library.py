"""asyncssh as this system loads it and helps it: a short command must not cost much more than `ssh` itself."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from typing import TYPE_CHECKING, Any

from llorch.host import runtime

if TYPE_CHECKING:
    import asyncssh


def load() -> None:
    """Make asyncssh importable, and import it without its search for liboqs and libnettle. Raises HostError.

    The search runs the host's compiler and linker, twice each, a third of what a short command takes; what it found
    would be foreign code in the frozen program, with other algorithms on every host.
    """
    runtime.ensure("net")
    if "asyncssh" in sys.modules:
        return
    import ctypes.util

    search = ctypes.util.find_library
    ctypes.util.find_library = lambda name: None
    try:
        import asyncssh  # noqa: F401
    finally:
        ctypes.util.find_library = search


def acknowledge_promptly(connection: asyncssh.SSHClientConnection) -> None:
    """Have TCP acknowledge at once what the server sends on this connection.

    sshd leaves Nagle's algorithm on: its next small packet waits for the acknowledgement of the last, and Linux takes
    40 ms for that where we have nothing to say. It forgets our wish from time to time, hence the wish after each read.
    """
    link = connection.get_extra_info("socket")
    if not hasattr(socket, "TCP_QUICKACK") or getattr(link, "family", None) not in (socket.AF_INET, socket.AF_INET6):
        return
    take = connection.data_received

    def data_received(data: bytes, datatype: int | None = None) -> None:
        take(data, datatype)
        if link.fileno() >= 0:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    connection.data_received = data_received  # type: ignore[method-assign]


def tell_once(loop: asyncio.AbstractEventLoop) -> None:
    """In a command's loop: no word for each of the transfers that were under way when a connection was lost.

    asyncssh runs a hundred of them at once in tasks of its own and awaits the first that fails, which we report.
    """
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # one warning for each write to the lost connection

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        library = sys.modules.get("asyncssh")
        if library is None or not isinstance(context.get("exception"), library.Error):
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)
