"""How a copy to a host is shown: a bar redrawn in place, or a line at every tenth where there are several hosts."""

from __future__ import annotations

import os
import sys
import time

from llorch.host.ssh import Sink
from llorch.remote import terminal

_REDRAW_S = 0.1
_BAR_COLUMNS = 24


class Copying:
    """Shows `total_bytes` on their way to a host; `err` is where the host's lines go."""

    def __init__(self, total_bytes: int, err: Sink, *, alone: bool) -> None:
        """`alone`: no other host writes to the terminal meanwhile."""
        self._total_bytes = total_bytes
        self._err = err
        self._redraws = alone and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._started = self._shown_at = time.monotonic()
        self._step = -1

    def show(self, done_bytes: int) -> None:
        """`done_bytes` of it have arrived."""
        now = time.monotonic()
        step = 10 * done_bytes // max(1, self._total_bytes)
        is_due = now - self._shown_at >= _REDRAW_S if self._redraws else step > self._step
        if not is_due and done_bytes < self._total_bytes:
            return
        if step == self._step and not self._redraws:
            return
        self._step, self._shown_at = step, now
        self._err(self._line(done_bytes, now - self._started).encode())

    def _line(self, done_bytes: int, elapsed_s: float) -> str:
        part = done_bytes / max(1, self._total_bytes)
        full = int(_BAR_COLUMNS * part)
        rate = f", {megabytes(done_bytes / elapsed_s)}/s" if elapsed_s > _REDRAW_S else ""
        bar = f"copying [{'#' * full}{'.' * (_BAR_COLUMNS - full)}]"
        text = f"{bar} {100 * part:3.0f} % of {megabytes(self._total_bytes)}{rate}"
        if not self._redraws:
            return text + "\n"
        return "\r" + text[: terminal.columns() - 1] + "\x1b[K" + ("\n" if done_bytes >= self._total_bytes else "")


def megabytes(count: float) -> str:
    """`12.3 MB`, in units of 10^6 bytes."""
    return f"{count / 1e6:.1f} MB"
