"""One way out for every signal that asks a command to end: Ctrl-C, SIGTERM and SIGHUP become KeyboardInterrupt."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

_ENDINGS = (signal.SIGTERM, signal.SIGHUP)
_FROM_TERMINALS = (signal.SIGINT, signal.SIGHUP)
_ECHO_S = 0.04

Handler = Callable[[int, FrameType | None], None]


class Presses:
    """Tells a signal from its echo: the onefile's launcher hears Ctrl-C at a terminal, too, and passes it on to us."""

    def __init__(self) -> None:
        self._heard_at: dict[int, float] = {}

    def is_echo(self, number: int) -> bool:
        """Did a terminal send the same a moment ago? Nobody presses a key twice in that."""
        if number not in _FROM_TERMINALS:
            return False
        now = time.monotonic()
        if now - self._heard_at.get(number, -_ECHO_S) < _ECHO_S:
            return True
        self._heard_at[number] = now
        return False


def _raising(end: Callable[[int], BaseException]) -> Handler:
    presses = Presses()

    def handle(number: int, frame: FrameType | None) -> None:
        if not presses.is_echo(number):
            raise end(number)

    return handle


def count_presses_once() -> None:
    """From now on one Ctrl-C is one KeyboardInterrupt, also for the onefile; where it was ignored it stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _raising(lambda number: KeyboardInterrupt()))


def ignore_presses() -> None:
    """The program's work is done: Ctrl-C's echo must not kill it while Python tidies up, which forgets our handler."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _handled(numbers: Iterable[int], handler: Handler) -> Iterator[None]:
    """Inside the block these signals are the handler's, and behind it again whose they were."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def as_keyboard_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP (the terminal or the SSH session went away) act like Ctrl-C inside the block.

    Only the main thread may use it. What undoes a half-done piece of work then needs to know one exception only.
    """
    with _handled(_ENDINGS, _raising(lambda number: KeyboardInterrupt())):
        yield


@contextmanager
def as_exit() -> Iterator[None]:
    """SIGTERM and SIGHUP end the program by SystemExit(128 + n), where Ctrl-C means less. Main thread only."""
    with _handled(_ENDINGS, _raising(lambda number: SystemExit(128 + number))):
        yield


@contextmanager
def held_off() -> Iterator[None]:
    """All three wait until the block is left, then act: for a clean-up, or a step that must not be half done.

    Children started inside are not affected, as they would be by ignored or blocked signals. Main thread only.
    """
    pending: list[int] = []
    with _handled((signal.SIGINT, *_ENDINGS), lambda arrived, frame: pending.append(arrived)):
        yield
    if pending:
        raise KeyboardInterrupt
