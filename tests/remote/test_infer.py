"""`llorch infer` and `jobs submit` against a scripted service: streams, errors, and what Ctrl-C does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.client.conftest import TEXT, Scripted, server
from tests.remote.cli import llorch
from tests.remote.sshd import ROOT, program

__all__ = ["server"]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """An empty home."""
    kept = {k: v for k, v in os.environ.items() if k == "LLORCH_CACHE" or not k.startswith(("LLORCH_", "XDG_"))}
    return {**kept, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}


def test_text_on_stdout_figures_on_stderr(server: Scripted, env: dict[str, str], tmp_path: Path) -> None:
    """The text and a line end, nothing else, on stdout; the token of the state directory goes along."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "worker-token").write_text("secret\n")
    env["LLORCH_STATE"] = str(tmp_path / "state")
    done = llorch("infer", "--worker", server.url, "--prompt", "-", "--stop", "x", env=env, stdin="hä\n".encode())
    assert (done.code, done.out) == (0, "".join(TEXT) + "\n")
    assert "8 tokens, ttft" in done.err and "400.0 tok/s, EOS" in done.err
    _, _, headers, body = server.script.requests[0]
    assert headers["authorization"] == "Bearer secret"
    assert json.loads(body)["prompt"] == "hä\n" and json.loads(body)["stop"] == ["x"]


def test_json_is_one_event_per_line(server: Scripted, env: dict[str, str]) -> None:
    """--json prints the events in order and nothing on stderr but the figures."""
    done = llorch("infer", "--worker", server.url, "--prompt", "x", "--json", env=env)
    events = [json.loads(line) for line in done.out.splitlines()]
    assert [e["t"] for e in events if e["type"] == "token"] == TEXT and events[-1]["type"] == "end"


@pytest.mark.parametrize("words", [("infer", "--worker"), ("jobs", "submit", "--orchestrator")])
def test_interrupting_cancels_the_job(server: Scripted, env: dict[str, str], words: tuple[str, ...]) -> None:
    """Ctrl-C while text comes: the job is cancelled on the other side, 130, no traceback."""
    server.script.hold_open = True
    command = [*program(), *words, server.url, "--prompt", "Once"]
    asking = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert asking.stdout is not None and asking.stdout.read(4) == b"Once"
    asking.send_signal(signal.SIGINT)
    _, complaints = asking.communicate(timeout=20)
    assert asking.returncode == 130 and b"Traceback" not in complaints
    assert server.script.cancelled.is_set()


def test_a_reader_that_leaves_ends_it_quietly(server: Scripted, env: dict[str, str]) -> None:
    """`llorch infer … | head -c 4`: no traceback, and the job is cancelled."""
    server.script.frames = [f for f in server.script.frames if f[0] != 10]
    server.script.slice_bytes = 64
    asking = subprocess.Popen(
        [*program(), "infer", "--worker", server.url, "--prompt", "Once"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert asking.stdout is not None and asking.stderr is not None
    asking.stdout.close()
    complaints = asking.stderr.read()
    assert asking.wait(20) != 0 and b"Traceback" not in complaints and b"BrokenPipe" not in complaints


def test_errors_are_one_line(server: Scripted, env: dict[str, str]) -> None:
    """A refusal, an error event, an absent service: one line on stderr and the code of its kind."""
    server.script.post_answer = (429, {"error": {"code": "QUEUE_FULL", "message": "the queue is full"}})
    full = llorch("jobs", "submit", "--orchestrator", server.url, "--prompt", "x", env=env)
    assert (full.code, full.out, full.err) == (75, "", "llorch: the queue is full\n")
    nobody = llorch("infer", "--worker", "127.0.0.1:1", "--prompt", "x", env=env)
    assert nobody.code == 5 and "127.0.0.1:1" in nobody.err and nobody.err.count("\n") == 1
    empty = llorch("infer", "--worker", server.url, "--prompt", "", env=env)
    assert empty.code == 2
    high = llorch("infer", "--worker", server.url, "--prompt", "x", "--temperature", "9", env=env)
    assert high.code == 1 and "temperature" in high.err
