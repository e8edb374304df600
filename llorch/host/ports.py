"""TCP ports of this host: the first free one, found by binding to it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection

from llorch.base.errors import HostError

PORTS_TRIED_MAX = 1000


def choose(bind: str, wanted: int | None, first: int, taken: Collection[int]) -> int:
    """`wanted` if it is free, else (when None) the first free port from `first` that is not in `taken`.

    `taken` are ports promised to processes that do not listen yet. Raises HostError when there is none.
    """
    if wanted is not None:
        if wanted in taken or not is_free(bind, wanted):
            raise HostError(f"port {wanted} is in use")
        return wanted
    for port in range(first, min(first + PORTS_TRIED_MAX, 65536)):
        if port not in taken and is_free(bind, port):
            return port
    raise HostError(f"no free port between {first} and {first + PORTS_TRIED_MAX - 1}")


def is_free(bind: str, port: int) -> bool:
    """Could a server listen on this address now? Raises HostError when the address is not one of this host."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: connections of a stopped one that linger do not count, a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind, port))
            probe.listen(1)
        except PermissionError:
            return False
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise HostError(f"{bind} is not an address of this host") from error
            return False
    return True
