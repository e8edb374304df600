"""Wake-on-LAN: the packet that a sleeping machine's network card waits for."""

from __future__ import annotations

import re
import socket

from llorch.base.errors import ConfigError, HostError

PORT = 9
BROADCAST = "255.255.255.255"
_MAC = re.compile(r"[0-9a-f]{2}(?P<sep>[:-]?)[0-9a-f]{2}(?:(?P=sep)[0-9a-f]{2}){4}")
_TIMES = 3  # it is a datagram: nobody says whether it came


def parse_mac(text: str) -> bytes:
    """The six bytes of `aa:bb:cc:dd:ee:ff`, also with dashes or without any. Raises ConfigError."""
    lowered = text.strip().lower()
    if not _MAC.fullmatch(lowered):
        raise ConfigError(f"'{text[:40]}' is not a MAC address like aa:bb:cc:dd:ee:ff")
    return bytes.fromhex(lowered.replace(":", "").replace("-", ""))


def packet(mac: bytes) -> bytes:
    """Six bytes of ones, then the card's address sixteen times."""
    return b"\xff" * 6 + mac * 16


def send(mac: bytes, address: str = BROADCAST, port: int = PORT) -> None:
    """Send the packet to the whole of this network. Raises HostError."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            for _ in range(_TIMES):
                sender.sendto(packet(mac), (address, port))
    except OSError as error:
        raise HostError(f"the wake-up packet cannot be sent: {error.strerror}") from error
