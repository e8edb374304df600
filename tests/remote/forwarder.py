"""A TCP forwarder on loopback that counts what passes, both ways, and may break off."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self

_READ_BYTES = 64 << 10


class Forwarder:
    """Forwards a free port to `target`, from `with` to its end; past `breaks_after_bytes` every connection breaks."""

    def __init__(self, target: int, breaks_after_bytes: float = float("inf")) -> None:
        self.moved_bytes = 0
        self._breaks_after_bytes = breaks_after_bytes
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=ends, daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_READ_BYTES):
                with self._lock:
                    self.moved_bytes += len(data)
                if self.moved_bytes > self._breaks_after_bytes:
                    source.shutdown(socket.SHUT_RDWR)
                    break
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
