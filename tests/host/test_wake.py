"""The wake-up packet, as network cards want it."""

from __future__ import annotations

import socket

import pytest

from llorch.base.errors import ConfigError
from llorch.host import wake


@pytest.mark.parametrize("text", ["AA:bb:cc:00:11:22", "aa-bb-cc-00-11-22", "aabbcc001122", " aa:bb:cc:00:11:22 "])
def test_a_mac_is_read_in_its_usual_forms(text: str) -> None:
    """Colons, dashes, or neither; case does not matter."""
    assert wake.parse_mac(text) == bytes.fromhex("aabbcc001122")


@pytest.mark.parametrize(
    "text", ["", "aa:bb:cc:00:11", "aa:bb:cc:00:11:2g", "aa:bb-cc:00:11:22", "aa:bb:cc:00:11:22:33"]
)
def test_anything_else_is_refused(text: str) -> None:
    """One clear error that shows how it should look."""
    with pytest.raises(ConfigError, match="aa:bb:cc:dd:ee:ff"):
        wake.parse_mac(text)


def test_the_packet_arrives() -> None:
    """Six bytes of ones and the address sixteen times, by UDP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as card:
        card.bind(("127.0.0.1", 0))
        card.settimeout(5)
        wake.send(bytes.fromhex("aabbcc001122"), "127.0.0.1", card.getsockname()[1])
        assert card.recv(200) == b"\xff" * 6 + bytes.fromhex("aabbcc001122") * 16
