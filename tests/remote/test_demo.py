"""`llorch demo`, the main job end to end: real daemons, a SIGKILL, one unbroken text, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from llorch.host import runtime, strays
from tests.remote.sshd import ROOT, program

pytestmark = pytest.mark.e2e
TIMEOUT_S = 150


def environment(tmp_path: Path) -> dict[str, str]:
    """A home and a temporary directory of our own, and llorch settings that would lead astray if they were kept."""
    (tmp_path / "tmp").mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith("XDG_")}
    misleading = {"LLORCH_ORCHESTRATOR": "http://127.0.0.1:1", "LLORCH_API_KEY": "x", "LLORCH_PORT": "1"}
    places = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(ROOT)}
    return {**kept, **misleading, **places, "TERM": "dumb", "COLUMNS": "40", "DEMO_TEST": str(tmp_path)}


@pytest.fixture(autouse=True)
def _needs_the_model() -> None:
    if not os.environ.get("LLORCH_FROZEN") and not (runtime.assets_dir() / "demo").is_dir():
        pytest.skip("the demo model is not built")


def leftovers(tmp_path: Path) -> list[str]:
    """Processes of that run, and files in its temporary directory (the bootloader's own folder is not ours)."""
    processes = [found.command for found in strays.find_by_environment("DEMO_TEST", str(tmp_path))]
    return processes + [p.name for p in (tmp_path / "tmp").iterdir() if not p.name.startswith("_MEI")]


def test_the_demo_succeeds_and_leaves_nothing(tmp_path: Path) -> None:
    """Exit 0 within a minute; the last five lines are the facts; narrow and dumb terminals are fine."""
    done = subprocess.run([*program(), "demo"], env=environment(tmp_path), capture_output=True, timeout=TIMEOUT_S)
    lines = done.stdout.decode().splitlines()
    facts = dict(line.split("=") for line in lines[-5:])
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert list(facts) == ["demo_tokens", "demo_ttft_ms", "demo_failover", "demo_cancel", "demo_leftover_processes"]
    assert facts["demo_failover"] == facts["demo_cancel"] == "ok" and facts["demo_leftover_processes"] == "0"
    assert int(facts["demo_tokens"]) > 100 and int(facts["demo_ttft_ms"]) >= 0
    assert b"\x1b" not in done.stdout
    assert leftovers(tmp_path) == []
    state = tmp_path / ".local"
    assert not state.exists() and not (tmp_path / ".config").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C or SIGTERM in the middle: 130, and no process and no file remains."""
    with tempfile.TemporaryFile() as output:
        demo = subprocess.Popen([*program(), "demo"], env=environment(tmp_path), stdout=output, stderr=output)
        deadline = time.monotonic() + TIMEOUT_S
        # The daemons are starting: their home is there.
        while not list((tmp_path / "tmp").glob("llorch-demo-*/worker-*.log")):
            assert demo.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        demo.send_signal(number)
        assert demo.wait(60) == 130
    assert leftovers(tmp_path) == []


def test_a_killed_demo_leaves_no_process(tmp_path: Path) -> None:
    """SIGKILL leaves nobody to clean up: the daemons end with the demo all the same."""
    with tempfile.TemporaryFile() as output:
        demo = subprocess.Popen([*program(), "demo"], env=environment(tmp_path), stdout=output, stderr=output)
        deadline = time.monotonic() + TIMEOUT_S
        while not list((tmp_path / "tmp").glob("llorch-demo-*/worker-*.log")):
            assert demo.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        demo.kill()
        demo.wait()
    deadline = time.monotonic() + 10
    while left := strays.find_by_environment("DEMO_TEST", str(tmp_path)):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)
