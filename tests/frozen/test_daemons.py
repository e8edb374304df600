"""Daemons run from the one-folder copy: one process that survives its starter, or dies with it where it should."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from bare_host import Host

from llorch.host import process

pytestmark = [pytest.mark.frozen, pytest.mark.e2e]
T = TypeVar("T")


def until(look: Callable[[], T | None], deadline_s: float = 30.0) -> T:
    """The first truthy answer of `look`."""
    end = time.monotonic() + deadline_s
    while not (seen := look()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return seen


def record(host: Host) -> dict[str, object] | None:
    """What a running orchestratord says of itself."""
    path = host.folder / "home" / ".local" / "state" / "llorch" / "orchestratord.json"
    return json.loads(path.read_text()) if path.exists() else None


def test_a_daemon_in_the_foreground_moves_to_the_one_folder_copy(host: Host) -> None:
    """It needs no temporary folder and no runtime, and `kill -9` of the pid that the shell shows frees its port."""
    shell_sees = host.start("orchestratord", "--port", "0")
    facts = until(lambda: record(host))
    pid = int(str(facts["pid"]))
    assert Path(os.readlink(f"/proc/{pid}/exe")).is_relative_to(host.cache)
    assert b"_MEI" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert [path.name.partition("-")[0] for path in host.cache.iterdir() if path.name[0] != "."] == ["app"]
    shell_sees.kill()
    shell_sees.communicate()
    until(lambda: process.start_time(pid) is None)


def test_sigterm_reaches_it_and_its_exit_code_comes_back(host: Host) -> None:
    """The bootloader's parent forwards signals."""
    shell_sees = host.start("orchestratord", "--port", "0")
    until(lambda: record(host))
    shell_sees.send_signal(signal.SIGTERM)
    shell_sees.communicate(timeout=30)
    assert shell_sees.returncode == 0
    assert list((host.folder / "tmp").iterdir()) == []


def children(pid: int) -> list[int]:
    """The processes that `pid` started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_policy_script_runs_in_the_one_folder_copy(host: Host) -> None:
    """`policy check` works from the one file; the daemon's child runs from the copy, without our environment."""
    script = host.folder / "policy.star"
    script.write_text("def admit(task, ctx):\n    return True\n")
    checked = host.run("llorch", "policy", "check", script)
    assert checked.returncode == 0 and "defines admit" in checked.stdout, checked.stderr
    shell_sees = host.start("orchestratord", "--port", "0", "--policy", str(script))
    facts = until(lambda: record(host))
    (child,) = children(int(str(facts["pid"])))
    assert Path(os.readlink(f"/proc/{child}/exe")).is_relative_to(host.cache)
    names = {line.partition(b"=")[0] for line in Path(f"/proc/{child}/environ").read_bytes().split(b"\0") if line}
    assert all(name.startswith((b"_PYI_", b"LD_LIBRARY_PATH")) for name in names), names
    shell_sees.terminate()
    shell_sees.communicate(timeout=30)
    until(lambda: process.start_time(child) is None)
    assert list((host.folder / "tmp").iterdir()) == []


def test_the_first_walk_without_an_orchestrator(host: Host, loaded: tuple[Path, object]) -> None:
    """spawn, infer, list, stop-all; the worker outlives the command that spawned it and its temporary folder."""
    cache = {"LLORCH_CACHE": str(loaded[0])}
    spawned = host.run("llorch-pool", "worker", "spawn", "cpu", "--model", "demo", **cache)
    assert spawned.returncode == 0, spawned.stderr
    assert list((host.folder / "tmp").iterdir()) == []
    listed = json.loads(host.run("llorch-pool", "worker", "list", "--json", **cache).stdout)
    (worker,) = listed["workers"] if isinstance(listed, dict) else listed
    try:
        assert Path(os.readlink(f"/proc/{worker['pid']}/exe")).is_relative_to(loaded[0])
        where = f"localhost:{worker['port']}"
        told = host.run(
            "llorch", "infer", "--worker", where, "--prompt", "Once upon a time", "--max-tokens", "20", **cache
        )
        assert told.returncode == 0, told.stderr
        assert len(told.stdout) > 20
    finally:
        stopped = host.run("llorch-pool", "worker", "stop-all", **cache)
    assert stopped.returncode == 0
    assert process.start_time(worker["pid"]) is None
