"""Addresses as text: what stays on this machine, and brackets in URLs."""

from __future__ import annotations

import pytest

from llorch.base import addresses


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost.", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "0:0:0:0:0:0:0:1"]
)
def test_loopback(host: str) -> None:
    """Every spelling of this machine's own loopback is known, also IPv4 inside IPv6."""
    assert addresses.is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.0.0.7", "localhost.example", "127.0.0.1.example", "0177.1"])
def test_not_loopback(host: str) -> None:
    """Wildcards, other machines and names that only begin like ours are not."""
    assert not addresses.is_loopback(host)


def test_urls_bracket_ipv6() -> None:
    """An IPv6 address stands in brackets, with and without a port; a wildcard is reached over loopback."""
    assert addresses.netloc("::1") == "[::1]" and addresses.netloc("fe80::1%eth0", 7) == "[fe80::1%eth0]:7"
    assert addresses.netloc("pool-a", 22) == "pool-a:22"
    assert addresses.local_url("10.0.0.7", 8001) == "http://10.0.0.7:8001"
    assert addresses.local_url("::1", 8001, "https") == "https://[::1]:8001"
    assert addresses.local_url("0.0.0.0", 1) == "http://127.0.0.1:1"
    assert addresses.local_url("::", 1) == addresses.local_url("0:0:0:0:0:0:0:0", 1) == "http://[::1]:1"
