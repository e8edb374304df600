"""Which address is whose: this machine's own, and the hosts that worker URLs may name."""

from __future__ import annotations

import socket
from collections.abc import Collection
from unicodedata import normalize
from urllib.parse import urlsplit

from llorch.base.addresses import is_loopback, parse
from llorch.base.ids import PoolId

# `.invalid` is reserved: nobody's DNS resolves it.
TUNNEL_SUFFIX = ".tunnel.invalid"


def is_own(host: str) -> bool:
    """Is this the address of one of our interfaces? Asked by binding to it, which sends nothing."""
    address = parse(host)
    if address is None:
        return is_loopback(host)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return not address.is_unspecified


def host_of(url: str) -> str:
    """The host of a checked worker URL, in lower case, without brackets."""
    return urlsplit(url).hostname or ""


def tunnel_url(pool: PoolId, port: int) -> str:
    """A worker on the loopback of a pool that we have a tunnel to."""
    return f"http://{pool}{TUNNEL_SUFFIX}:{port}"


def tunnelled_pool(host: str) -> PoolId | None:
    """The pool that such a URL's host means."""
    name = host.lower()
    return PoolId(name.removesuffix(TUNNEL_SUFFIX)) if name.endswith(TUNNEL_SUFFIX) else None


def is_reserved(host: str) -> bool:
    """May nobody but ourselves name it? Also a spelling that a URL library would read as such a name."""
    return tunnelled_pool(normalize("NFKC", host).rstrip(".")) is not None


def pool_of(url: str) -> PoolId:
    """The pool of a worker: the host of its URL, or the pool whose tunnel leads to it."""
    host = host_of(url)
    return tunnelled_pool(host) or PoolId(host)


def may_announce(url: str, peer: str, registered: Collection[PoolId]) -> bool:
    """May somebody at `peer` announce a worker at `url`? Only at its own address, or on a registered host."""
    host = host_of(url)
    if is_reserved(host):
        return False  # what lies behind a tunnel is for those to name who log in to its pool
    if host in registered:
        return True
    if is_loopback(peer):
        return is_loopback(host) or is_own(host)
    address = parse(host)
    return address is not None and address == parse(peer)


def may_add(url: str, registered: Collection[PoolId]) -> bool:
    """May an operator add a worker at `url`? Loopback and registered hosts only."""
    host = host_of(url)
    return not is_reserved(host) and (host in registered or is_loopback(host))
