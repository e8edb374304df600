"""How a download or a load is shown: a bar that moves, plain lines, or one JSON object per line."""

from __future__ import annotations

import json
import sys
import time
from typing import Protocol

from llorch.pool.terminal import Terminal

_REDRAW_S = 0.1
_LINE_S = 10.0
_JSON_S = 0.5


class Progress(Protocol):
    """`total_bytes` of work in named parts; `advance` gives the bytes done of the current part."""

    def start(self, part: str, done_before_bytes: int) -> None:
        """The part `part` begins; all parts before it add up to `done_before_bytes`."""

    def advance(self, done_bytes: int) -> None:
        """`done_bytes` of the current part are done."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def close(self) -> None:
        """No more output follows."""


def choose(terminal: Terminal, as_json: bool, total_bytes: int) -> Progress:
    """The display that fits who reads it."""
    if as_json:
        return JsonLines(total_bytes)
    return Bar(terminal, total_bytes) if terminal.interactive else Lines(total_bytes)


class _Paced:
    """Counts, and says when the next display is due."""

    interval_s = _LINE_S

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.part = ""
        self.before_bytes = 0
        self.done_bytes = 0
        self.started = self.shown = time.monotonic()
        self.first_bytes: int | None = None

    def start(self, part: str, done_before_bytes: int) -> None:
        self.part, self.before_bytes, self.done_bytes = part, done_before_bytes, done_before_bytes
        self.show()

    def advance(self, done_bytes: int) -> None:
        self.done_bytes = self.before_bytes + done_bytes
        if self.first_bytes is None:
            self.first_bytes = self.done_bytes
        if time.monotonic() - self.shown >= self.interval_s:
            self.show()

    def show(self) -> None:
        self.shown = time.monotonic()

    def rate(self) -> float:
        """Bytes per second since the first byte was seen."""
        elapsed = time.monotonic() - self.started
        return max(0, self.done_bytes - (self.first_bytes or 0)) / elapsed if elapsed > 0.2 else 0.0

    def percent(self) -> int:
        return 100 if self.total_bytes == 0 else min(100, self.done_bytes * 100 // self.total_bytes)


class Lines(_Paced):
    """A line now and then on stderr, for logs and pipes."""

    def show(self) -> None:
        super().show()
        self._print(f"{self.part}: {self.percent()} % of {megabytes(self.total_bytes)}")

    def note(self, text: str) -> None:
        self._print(text)

    def close(self) -> None:
        pass

    @staticmethod
    def _print(text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class JsonLines(_Paced):
    """NDJSON on stdout: {"type": "progress", part, done_bytes, total_bytes} and {"type": "note", text}."""

    interval_s = _JSON_S

    def show(self) -> None:
        super().show()
        facts = {"part": self.part, "done_bytes": self.done_bytes, "total_bytes": self.total_bytes}
        print(json.dumps({"type": "progress", **facts}), flush=True)

    def note(self, text: str) -> None:
        print(json.dumps({"type": "note", "text": text}), flush=True)

    def close(self) -> None:
        pass


class Bar(_Paced):
    """One line on stderr, redrawn in place."""

    interval_s = _REDRAW_S

    def __init__(self, terminal: Terminal, total_bytes: int) -> None:
        super().__init__(total_bytes)
        self._terminal = terminal

    def show(self) -> None:
        super().show()
        tail = f" {self.percent():3d} % of {megabytes(self.total_bytes)}, {megabytes(self.rate())}/s"
        name = self.part[-24:]
        width = max(4, min(40, self._terminal.columns - len(tail) - len(name) - 5))
        full = width * self.percent() // 100
        filled, empty = ("█", "░") if self._terminal.utf8 else ("#", ".")
        line = f"{name} [{filled * full}{empty * (width - full)}]{tail}"
        self._write(f"\r{line[: self._terminal.columns - 1]}\x1b[K")

    def note(self, text: str) -> None:
        self._write(f"\r\x1b[K{text}\n")
        self.show()

    def close(self) -> None:
        self._write("\r\x1b[K")

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def megabytes(count: float) -> str:
    """`12.3 MB` or `1.2 GB`, in units of 10^6 and 10^9 bytes."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
