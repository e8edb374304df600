"""Processes are found by what they carry in their environment."""

from __future__ import annotations

import os
import subprocess
import sys

from llorch.host import strays


def test_a_carrier_is_found_with_its_ancestors() -> None:
    """The process that carries the variable is found, under us; other values and the dead are not."""
    value = os.urandom(8).hex()
    argv = [sys.executable, "-c", "print('up', flush=True); input()"]
    env = {**os.environ, "LLORCH_HOME_ID": value}
    process = subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    process.stdout.readline()
    (found,) = strays.find_by_environment("LLORCH_HOME_ID", value)
    assert found.pid == process.pid
    assert os.getpid() in found.ancestors
    assert "print" in found.command
    assert strays.find_by_environment("LLORCH_HOME_ID", value[:-1]) == []
    process.kill()
    process.communicate()
    assert strays.find_by_environment("LLORCH_HOME_ID", value) == []
