"""Life and access of the worker process: start, refusals, tokens, drain, shutdown."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from worker_rig import CONTEXT, Starter, eventually

Run = Callable[..., subprocess.CompletedProcess[str]]
LONG = {"prompt": "once", "max_tokens": CONTEXT - 100, "temperature": 0}


def test_a_life(start: Starter, model_dir: Path) -> None:
    """The ready line says where, what and how many; SIGTERM takes nothing new, finishes what runs and exits 0.

    Neither prompts nor generated text nor tracebacks are in the log, which is JSON when asked for.
    """
    flags = ("--model", str(model_dir), "--slots", "2", "--log-format", "json", "--worker-id", "w-1")
    worker = start(*flags)
    assert worker.health()["worker_id"] == "w-1"
    assert worker.call("/execute", {"job_id": "q", "prompt": "my-secret-word", "temperature": 9})[0] == 400
    stream = worker.execute({"job_id": "last", "prompt": "my-secret-word", "max_tokens": 600, "temperature": 0})
    with contextlib.closing(stream):
        stream.until("token")
        worker.process.send_signal(signal.SIGTERM)
        eventually(lambda: worker.health()["state"] == "draining")
        status, body, headers = worker.call("/execute", {"job_id": "new", "prompt": "x"})
        assert (status, body["error"]["code"]) == (503, "DRAINING") and "retry-after" in headers
        assert worker.call("/readyz")[0] == 503
        assert list(stream)[-1]["tokens_out"] == 600
    assert worker.process.wait(10) == 0
    text = worker.log_path.read_text()
    assert "Traceback" not in text and "my-secret-word" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    ready = next(line for line in lines if line["message"] == "ready")
    assert (ready["url"], ready["model"], ready["slots"]) == (worker.url, "tiny", 2)


@pytest.mark.slow
def test_grace_is_bounded_and_a_second_signal_is_immediate(start: Starter, model_dir: Path) -> None:
    """A stream that outlives the grace time, or meets a second SIGTERM, ends with a retriable error."""
    for env, signals in (({"LLORCH_WORKER_GRACE_S": "0.2"}, 1), ({"LLORCH_WORKER_GRACE_S": "60"}, 2)):
        worker = start("--model", str(model_dir), "--slots", "1", **env)
        stream = worker.execute({"job_id": "long", **LONG})
        with contextlib.closing(stream):
            stream.until("token")
            for number in range(signals):
                worker.process.send_signal(signal.SIGTERM)
                if number == 0:
                    eventually(lambda w=worker: b"draining" in w.log_path.read_bytes())
            last = list(stream)[-1]
        assert (last["type"], last["code"], last["retriable"]) == ("error", "WORKER_LOST", True)
        assert worker.process.wait(10) == 0


@pytest.mark.slow
def test_drain_and_shutdown_routes(start: Starter, model_dir: Path) -> None:
    """/drain leaves when idle; /shutdown leaves at once; both exit 0."""
    for path in ("/drain", "/shutdown"):
        worker = start("--model", str(model_dir), "--slots", "1")
        assert worker.call(path, b"{}")[0] == 202
        assert worker.process.wait(10) == 0


def test_token_guards_every_route_but_health(start: Starter, model_dir: Path, tmp_path: Path) -> None:
    """Without the right bearer token every route is 401, except /health."""
    token_file = tmp_path / "token"
    token_file.write_text("correct-horse\n")
    worker = start("--model", str(model_dir), "--slots", "1", "--token-file", str(token_file), "--bind", "0.0.0.0")
    assert worker.health()["status"] == "healthy"
    for path, method in [
        ("/execute", "POST"), ("/tokenize", "POST"), ("/cancel", "POST"), ("/drain", "POST"), ("/shutdown", "POST"),
        ("/metrics", "GET"), ("/readyz", "GET"), ("/nowhere", "GET"),
    ]:  # fmt: skip
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic correct-horse"}):
            status, body, _ = worker.call(path, method=method, **headers)
            assert (status, body["error"]["code"]) == (401, "UNAUTHORIZED"), path
    right = {"Authorization": "Bearer correct-horse"}
    assert worker.call("/tokenize", {"prompt": "x"}, **right)[0] == 200
    assert "correct-horse" not in worker.log_path.read_text()


def test_refuses_to_bind_without_a_token(run_worker: Run, model_dir: Path) -> None:
    """An address that others can reach needs a token; the refusal is one line and names both ways out."""
    done = run_worker("--model", str(model_dir), "--bind", "0.0.0.0", "--port", "0")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "--token-file" in done.stderr and "--insecure-lan" in done.stderr


@pytest.mark.slow
def test_insecure_lan_is_loud(start: Starter, model_dir: Path) -> None:
    """--insecure-lan needs no token and says so."""
    worker = start("--model", str(model_dir), "--slots", "1", "--bind", "0.0.0.0", "--insecure-lan")
    assert worker.call("/tokenize", {"prompt": "x"})[0] == 200
    assert "INSECURE" in worker.log_path.read_text()


def test_a_taken_port_is_one_clear_line(run_worker: Run, model_dir: Path) -> None:
    """The port is named, and nothing was loaded for it."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = run_worker("--model", str(model_dir), "--port", str(port))
    assert done.returncode == 1 and f"port {port}" in done.stderr
    assert "Traceback" not in done.stderr and "loading" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--model", "no-such-model"), 4, "no model 'no-such-model'"),
        (("--model", "qwen-0.5b"), 1, "llorch-pool models download qwen-0.5b"),
        (("--model", "/nonexistent/dir"), 4, "config.json is expected"),
        (("--model", "MODEL", "--backend", "cuda"), 1, "backend cuda is not available"),
        (("--model", "MODEL", "--quantize", "int4"), 2, "int4"),
        (("--model", "MODEL", "--quantize", "int8", "--kernels", "torch"), 1, "unquantized weights only"),
        (("--model", "MODEL", "--slots", "0"), 2, "--slots: must be between"),
        (("--model", "MODEL", "--dtype", "fp8"), 2, "fp8"),
        (("--model", "MODEL", "--worker-id", "no spaces"), 2, "--worker-id"),
        (("--model", "MODEL", "--bind", "no.such.host.invalid"), 1, "--bind"),
        (("--model", "MODEL", "--token-file", "/nonexistent"), 1, "token file"),
        (("--model", "MODEL", "--callback-url", "ftp://x"), 2, "http://HOST:PORT"),
        ((), 2, "--model"),
    ],
)
def test_refusals_are_clear(run_worker: Run, model_dir: Path, flags: tuple[str, ...], code: int, words: str) -> None:
    """What cannot be served ends with the right exit code and says why, without a traceback."""
    named = [str(model_dir) if flag == "MODEL" else flag for flag in flags]
    done = run_worker("--port", "0", *named)
    assert done.returncode == code and words in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_status_file_tells_how_the_start_goes(run_worker: Run, model_dir: Path, tmp_path: Path) -> None:
    """A failed start is in the file as failed, with its reason."""
    status = tmp_path / "status.json"
    flags = ("--model", str(model_dir), "--port", "0", "--backend", "metal")
    run_worker(*flags, LLORCH_STATUS_FILE=str(status))
    said = json.loads(status.read_text())
    assert said["state"] == "failed" and "metal" in said["error"]


def test_help_and_settings(run_worker: Run, tmp_path: Path) -> None:
    """--help is complete; unknown keys of [worker] are refused with a suggestion."""
    done = run_worker("--help")
    assert done.returncode == 0
    for flag in ("--model", "--port", "--bind", "--worker-id", "--callback-url", "--backend", "--gpu", "--token-file"):
        assert flag in done.stdout
    config = tmp_path / "llorch.toml"
    config.write_text("[worker]\nslot = 3\n")
    done = run_worker("--model", "demo", LLORCH_CONFIG=str(config))
    assert done.returncode == 2 and "did you mean 'slots'" in done.stderr


@pytest.mark.slow
def test_a_killed_worker_leaves_the_port(start: Starter, model_dir: Path) -> None:
    """After SIGKILL with live streams the same port can be taken again at once."""
    worker = start("--model", str(model_dir), "--slots", "1")
    stream = worker.execute({"job_id": "k", **LONG})
    stream.until("token")
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    began = time.monotonic()
    again = start("--model", str(model_dir), "--slots", "1", "--port", str(worker.port))
    assert again.port == worker.port and time.monotonic() - began < 60
    stream.close()
