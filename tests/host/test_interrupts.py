"""Signals that ask a command to end: one exception, and never in the middle of a step that must be whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from llorch.host import interrupts

ALL = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", ALL)
def test_every_ending_is_a_keyboard_interrupt(number: signal.Signals) -> None:
    """SIGTERM and SIGHUP act like Ctrl-C inside the block; afterwards the handlers are what they were."""
    before = [signal.getsignal(n) for n in ALL]
    with pytest.raises(KeyboardInterrupt), interrupts.as_keyboard_interrupt():
        os.kill(os.getpid(), number)
        signal.sigtimedwait([], 5)
    assert [signal.getsignal(n) for n in ALL] == before


@pytest.mark.parametrize("number", ALL)
def test_deferred_steps_are_whole(number: signal.Signals) -> None:
    """A signal inside the block acts when the block is left, after its last line."""
    before = [signal.getsignal(n) for n in ALL]
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.held_off():
        os.kill(os.getpid(), number)
        done.append("all of it")
    assert done and [signal.getsignal(n) for n in ALL] == before


def test_an_echo_is_no_second_press() -> None:
    """The onefile's launcher passes on what the terminal has told us already: one press, one KeyboardInterrupt."""
    raised = 0
    with interrupts.as_keyboard_interrupt():
        for _ in range(2):
            try:
                os.kill(os.getpid(), signal.SIGHUP)
                signal.sigtimedwait([], 0.01)
            except KeyboardInterrupt:
                raised += 1
    assert raised == 1


def test_a_second_press_counts() -> None:
    """Whoever presses again, a moment later, means it."""
    raised = 0
    with interrupts.as_keyboard_interrupt():
        for _ in range(2):
            try:
                os.kill(os.getpid(), signal.SIGHUP)
                signal.sigtimedwait([], 5)
            except KeyboardInterrupt:
                raised += 1
            signal.sigtimedwait([], 0.15)
    assert raised == 2


LATE = """
import os, signal, sys
from llorch.host import interrupts

class Late:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGINT):
        kill(pid, number)

late = Late()
interrupts.count_presses_once()
{last}
sys.exit(130)
"""


@pytest.mark.parametrize(("last", "code"), [("interrupts.ignore_presses()", 130), ("", -signal.SIGINT)])
def test_an_echo_while_python_tidies_up_does_not_kill(last: str, code: int) -> None:
    """Python gives up its handlers before its modules; the exit code must survive a Ctrl-C that arrives then."""
    ran = subprocess.run([sys.executable, "-c", LATE.format(last=last)], timeout=30, check=False)
    assert ran.returncode == code
