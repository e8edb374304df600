"""The line by which a remote command says its process id (see `quote.marked_line`), found in what it says otherwise."""

from __future__ import annotations

from collections.abc import Callable

from llorch.host import quote

# Login scripts may talk before our command says its process id, but not for ever.
MARK_WITHIN_BYTES = 16 << 10


class PidMark:
    """Takes the line that names the remote process id out of stderr and passes everything else on."""

    def __init__(self, sink: Callable[[bytes], None]) -> None:
        self.pid: int | None = None
        self._sink = sink
        self._held: bytes | None = b""  # None once the line was found or will not come

    def feed(self, data: bytes) -> None:
        """Bytes of stderr as they come."""
        if self._held is None:
            return self._sink(data)
        self._held += data
        if found := quote.PID_MARK.search(self._held):
            self.pid = int(found[1])
            self._held = self._held[: found.start()] + self._held[found.end() :]
        elif len(self._held) < MARK_WITHIN_BYTES:
            return None
        return self.flush()

    def flush(self) -> None:
        """Pass on what is held."""
        held, self._held = self._held, None
        if held:
            self._sink(held)
