"""Ctrl-C at a terminal reaches the onefile's launcher and the program: it must count once."""

from __future__ import annotations

import os
import pty
import select
import time
from pathlib import Path

import psutil
from daemons import until

TIMEOUT_S = 30.0


def read_until(fd: int, text: str) -> None:
    """Read what the program shows until `text` is there."""
    seen, deadline = "", time.monotonic() + TIMEOUT_S
    while text not in seen:
        assert time.monotonic() < deadline, seen
        if select.select([fd], [], [], 0.2)[0]:
            seen += os.read(fd, 65536).decode(errors="replace")


def test_ctrl_c_at_a_question_is_130(program: Path, tmp_path: Path) -> None:
    """The exit code says that it was interrupted; the program is not killed by its launcher's copy of the signal."""
    pid, fd = pty.fork()
    if pid == 0:
        home = {"HOME": str(tmp_path), "LLORCH_CACHE": str(tmp_path / "cache"), "TERM": "dumb"}
        os.execve(program, ["llorch", "init"], home)
    read_until(fd, "[home]")
    [child] = psutil.Process(pid).children()
    until(lambda: child.status() == psutil.STATUS_SLEEPING, "the program waits for a key")
    os.write(fd, b"\x03")
    deadline = time.monotonic() + TIMEOUT_S
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
        assert time.monotonic() < deadline
        if select.select([fd], [], [], 0.05)[0]:
            try:
                os.read(fd, 65536)
            except OSError:
                continue
    assert os.waitstatus_to_exitcode(ended[1]) == 130
    assert not (tmp_path / ".config").exists()
