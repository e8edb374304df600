"""The listening socket of a daemon: owned alone from the moment it is bound, and bounded in what piles up in it."""

from __future__ import annotations

import errno
import socket

from llorch.base.addresses import is_loopback
from llorch.base.errors import HostError

SEND_BUFFER_BYTES = 64 << 10
UNACKNOWLEDGED_MS_MAX = 10_000


def addresses_of(bind: str) -> list[str]:
    """The addresses a host name or literal stands for. Raises HostError."""
    try:
        found = socket.getaddrinfo(bind, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise HostError(f"--bind {bind}: not an address of this machine") from None
    return [str(row[4][0]) for row in found]


def stays_local(bind: str) -> bool:
    """Is every address that `bind` means a loopback address? Raises HostError for an unknown name."""
    return all(is_loopback(address) for address in addresses_of(bind))


def bound_socket(bind: str, port: int) -> socket.socket:
    """A socket that owns the port but does not listen yet; a name with addresses of both kinds means the IPv4 one.

    A reader who stands still can fill only a small send buffer, and a cut cable is noticed in 10 s. Raises HostError.
    """
    address = min(addresses_of(bind), key=lambda found: ":" in found)
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Inherited by accepted sockets.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS_MAX)
        share_with_lingering(made)
        made.bind((address, port))
        # Two sockets that both say REUSEADDR may share a port until one listens: say it only while binding.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError as error:
        made.close()
        raise bind_error(error, bind, port) from None
    made.setblocking(False)
    return made


def share_with_lingering(sock: socket.socket) -> None:
    """Connections of a stopped daemon that linger do not keep the port: to be said before bind and before listen."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def bind_error(error: OSError, bind: str, port: int) -> HostError:
    """Why a daemon cannot listen, with the way out when the port is taken."""
    if error.errno == errno.EADDRINUSE:
        return HostError(f"port {port} on {bind} is in use: choose another with --port, or 0 for a free one")
    return HostError(f"cannot listen on {bind} port {port}: {error.strerror or error}")
