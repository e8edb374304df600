"""Host names and addresses as text: which of them stay on this machine, and how they stand in a URL."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@lru_cache(maxsize=1024)
def parse(text: str) -> IPAddress | None:
    """An IP address, IPv4 where it is mapped into IPv6; None for a name."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if mapped is not None else address


@lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Does this host, an address or `localhost`, stay on this machine? Other names are not looked up."""
    if host.lower().rstrip(".") == "localhost":
        return True
    address = parse(host)
    return address is not None and address.is_loopback


def netloc(host: str, port: int | None = None) -> str:
    """HOST:PORT as a URL has it: an IPv6 address in brackets."""
    bracketed = f"[{host}]" if ":" in host else host
    return bracketed if port is None else f"{bracketed}:{port}"


def local_url(bind: str, port: int, scheme: str = "http") -> str:
    """Where a server bound to `bind` is reached from this machine: a wildcard over loopback."""
    address = parse(bind)
    if address is not None and address.is_unspecified:
        bind = "127.0.0.1" if address.version == 4 else "::1"
    return f"{scheme}://{netloc(bind, port)}"
