"""A link on loopback to one port: it can be cut, or go silent without a word, and is whole again on demand."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Self

_READ_BYTES = 64 << 10
SLOW_BYTES = 256


class Link:
    """Forwards a free port to `target`, from `with` to its end."""

    def __init__(self, target: int) -> None:
        self.opened = 0
        self.pause_s = 0.0  # before each piece of SLOW_BYTES: a slow line
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._passes = threading.Event()
        self._passes.set()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def cut(self) -> None:
        """Close every connection that goes over it; new ones are taken."""
        ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def hush(self) -> None:
        """From now on nothing passes, and nobody is told."""
        self._passes.clear()

    def mend(self) -> None:
        """Connections that were silent are lost; new ones pass."""
        self.cut()
        self._passes.set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._passes.set()
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._ends += [near, far]
                self.opened += 1
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=ends, daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(SLOW_BYTES if self.pause_s else _READ_BYTES):
                self._passes.wait()
                time.sleep(self.pause_s)
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
