"""Which address is whose: this machine's own, and the hosts that worker URLs may name."""

from __future__ import annotations

import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from llorch.base.addresses import is_loopback, parse
from llorch.base.ids import PoolId


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


def may_announce(url: str, peer: str, registered: Collection[PoolId]) -> bool:
    """May somebody at `peer` announce a worker at `url`? Only at its own address, or on a registered host."""
    host = host_of(url)
    if host in registered:
        return True
    if is_loopback(peer):
        return is_loopback(host) or is_own(host)
    address = parse(host)
    return address is not None and address == parse(peer)


def may_add(url: str, registered: Collection[PoolId]) -> bool:
    """May an operator add a worker at `url`? Loopback and registered hosts only."""
    host = host_of(url)
    return host in registered or is_loopback(host)
