"""A service manager's end of sd_notify: a datagram socket that keeps what daemons say."""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class NotifySocket:
    """Receives messages; `address` goes into NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.messages: list[dict[str, str]] = []
        self._came: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()

    def read(self, channel: socket.socket) -> None:
        """Read at once, as a manager does, until an empty datagram."""
        while data := channel.recv(65536):
            self._came.put(dict(line.split("=", 1) for line in data.decode().splitlines()))

    def until(self, wanted: Callable[[dict[str, str]], bool], what: str, timeout_s: float = 30.0) -> dict[str, str]:
        """The next message that is `wanted`; all that came are kept."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            try:
                message = self._came.get(timeout=left)
            except queue.Empty:
                break
            self.messages.append(message)
            if wanted(message):
                return message
        raise AssertionError(f"waited {timeout_s:g} s in vain for {what}; came: {self.messages}")

    def said(self, key: str, timeout_s: float = 30.0) -> dict[str, str]:
        """The next message with `key`."""
        return self.until(lambda message: key in message, key, timeout_s)

    def silent_for(self, key: str, seconds: float) -> bool:
        """Does nobody say `key` for so long, from now on?"""
        while not self._came.empty():
            self.messages.append(self._came.get())
        try:
            self.said(key, seconds)
        except AssertionError:
            return True
        return False


@contextmanager
def notify_socket(folder: Path, *, abstract: bool = False) -> Iterator[NotifySocket]:
    """A bound socket, as systemd has it: a path or an abstract name."""
    address = f"@llorch-test-{os.urandom(8).hex()}" if abstract else str(folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        place = "\0" + address[1:] if abstract else address
        channel.bind(place)
        made = NotifySocket(address)
        reader = threading.Thread(target=made.read, args=(channel,))
        reader.start()
        try:
            yield made
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as goodbye:
                goodbye.sendto(b"", place)
            reader.join()
