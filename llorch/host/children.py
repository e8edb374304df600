"""Helper processes of ours that may be killed at any moment: they get one socket and nothing else of us."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import llorch
from llorch.base.errors import HostError

REAP_LIMIT_S = 5.0
_NOTHING: dict[str, str] = {}


class Child:
    """A started helper: its standard input is one end of a socket pair, `channel` is ours.

    It has no environment, no other descriptor of ours, and a session of its own (Ctrl-C in our terminal is not meant
    for it). Raises HostError if it cannot start.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self.channel, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                list(argv),
                env=_NOTHING,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd=_start_folder(),
            )
        except OSError as error:
            self.channel.close()
            raise HostError(f"cannot start {argv[0]}: {error.strerror or error}") from error
        finally:
            theirs.close()
        self.pid = self._process.pid

    def kill(self) -> None:
        """SIGKILL; nothing happens when it has ended. `reap` must follow."""
        self._process.kill()

    def reap(self) -> str:
        """Wait until it is gone (moments after `kill`); how it ended, in words. Blocks. Raises HostError."""
        try:
            code = self._process.wait(REAP_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise HostError(f"process {self.pid} does not end, not even by SIGKILL") from None
        return f"it was killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code}"


def _start_folder() -> str:
    """From sources it finds the package by the folder it starts in: an environment it has not."""
    return "/" if getattr(sys, "frozen", False) else str(Path(llorch.__file__).resolve().parents[1])
