"""One way out for every signal that asks a command to end: Ctrl-C, SIGTERM and SIGHUP become KeyboardInterrupt."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDINGS = (signal.SIGTERM, signal.SIGHUP)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def as_keyboard_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP (the terminal or the SSH session went away) act like Ctrl-C inside the block.

    Only the main thread may use it. What undoes a half-done piece of work then needs to know one exception only.
    """
    before = {number: signal.signal(number, _interrupt) for number in _ENDINGS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def as_exit() -> Iterator[None]:
    """SIGTERM and SIGHUP end the program by SystemExit(128 + n), where Ctrl-C means less. Main thread only."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in _ENDINGS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held_off() -> Iterator[None]:
    """All three wait until the block is left, then act: for a clean-up, or a step that must not be half done.

    Children started inside are not affected, as they would be by ignored or blocked signals. Main thread only.
    """
    pending: list[int] = []
    before = {
        number: signal.signal(number, lambda arrived, frame: pending.append(arrived))
        for number in (signal.SIGINT, *_ENDINGS)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if pending:
        raise KeyboardInterrupt
