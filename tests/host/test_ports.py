"""Finding a free port by binding to it."""

from __future__ import annotations

import socket

import pytest

from llorch.base.errors import HostError
from llorch.host import ports


def test_a_listener_makes_a_port_taken() -> None:
    """A port somebody listens on is not free, on any address that covers ours."""
    for address in ("127.0.0.1", "0.0.0.0"):
        with socket.create_server((address, 0)) as server:
            port = server.getsockname()[1]
            assert not ports.is_free("127.0.0.1", port)
            with pytest.raises(HostError, match="in use"):
                ports.choose("127.0.0.1", port, 1, ())
            assert ports.choose("127.0.0.1", None, port, ()) > port


def test_promised_ports_are_skipped() -> None:
    """A port that a worker will listen on soon is left alone although it is still free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    assert ports.choose("127.0.0.1", None, free, {free}) > free
    with pytest.raises(HostError):
        ports.choose("127.0.0.1", free, free, {free})


def test_a_strange_address_is_named() -> None:
    """Binding to an address that is not ours says so."""
    with pytest.raises(HostError, match=r"192\.0\.2\.1 is not an address of this host"):
        ports.is_free("192.0.2.1", 9999)
