"""The operator's walks with real daemons: spawn through SSH, infer, list, stop; jobs through an orchestratord."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from llorch.client.events import End, ErrorEvent, Token
from llorch.client.request import InferenceRequest
from llorch.client.sync import Client
from llorch.host import runtime, strays
from tests.remote.cli import install_pool, llorch
from tests.remote.sshd import ROOT, Sshd, program

pytestmark = pytest.mark.e2e
START_TIMEOUT_S = 60


@pytest.fixture(autouse=True)
def _needs_the_model() -> None:
    if not os.environ.get("LLORCH_FROZEN") and not (runtime.assets_dir() / "demo").is_dir():
        pytest.skip("the demo model is not built")


def environment(tmp_path: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k == "LLORCH_CACHE" or not k.startswith(("LLORCH_", "XDG_"))}
    places = {"LLORCH_STATE": str(tmp_path / "state"), "LLORCH_HOME": str(tmp_path / "data"), "HOME": str(tmp_path)}
    return {**kept, **places, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@contextmanager
def daemon(*words: str, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([*program(), *words], env=env, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_spawn_over_ssh_then_infer_then_stop(sshd: Sshd, tmp_path: Path) -> None:
    """S0's remote walk, no orchestrator anywhere: spawn, infer with the token, list, stop-all; nothing is left."""
    pool = {"LLORCH_HOME": str(tmp_path / "pool"), "LLORCH_STATE": str(tmp_path / "pool-state")}
    wrapper = install_pool(sshd, pool)
    config = tmp_path / "llorch.toml"
    config.write_text(f'[pools.a]\nhost = "pool-a"\npath = "{wrapper}"\n')
    env = {**sshd.env, "LLORCH_CONFIG": str(config), "LLORCH_STATE": str(tmp_path / "state")}
    try:
        spawned = llorch("pool", "worker", "spawn", "cpu", "--model", "demo", "--host", "a", "--json", env=env)
        assert spawned.code == 0, spawned.err
        worker = json.loads(spawned.out)["worker"]
        address = worker["url"].removeprefix("http://")
        words = (
            "infer",
            "--worker",
            address,
            "--prompt",
            "Once upon a time",
            "--max-tokens",
            "20",
            "--temperature",
            "0",
        )
        answer = llorch(*words, env=env)
        assert answer.code == 0 and len(answer.out.split()) >= 5, answer.err
        assert re.search(r"ttft \d+ ms, [\d.]+ tok/s", answer.err)
        assert llorch(*words, env=env).out == answer.out
        assert worker["worker_id"] in llorch("pool", "worker", "list", "--host", "a", env=env).out
    finally:
        stopped = llorch("pool", "worker", "stop-all", "--host", "a", env=env)
    assert stopped.code == 0
    assert "Total workers: 0" in llorch("pool", "worker", "list", "--host", "a", env=env).out
    gone = llorch("infer", "--worker", address, "--prompt", "x", env=env)
    assert gone.code == 5 and address in gone.err


def test_an_interrupted_spawn_leaves_no_worker(sshd: Sshd, tmp_path: Path) -> None:
    """Ctrl-C while a worker starts on another host: 130 here, and over there neither process nor record remains."""
    home = tmp_path / "pool"
    wrapper = install_pool(sshd, {"LLORCH_HOME": str(home), "LLORCH_STATE": str(tmp_path / "pool-state")})
    config = tmp_path / "llorch.toml"
    config.write_text(f'[pools.a]\nhost = "pool-a"\npath = "{wrapper}"\n')
    env = {**sshd.env, "LLORCH_CONFIG": str(config), "LLORCH_STATE": str(tmp_path / "state")}
    words = [*program(), "pool", "worker", "spawn", "cpu", "--model", "demo", "--host", "a"]
    spawning = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait_for(lambda: bool(list((home / "workers").glob("worker-*.json"))))
    spawning.send_signal(signal.SIGINT)
    assert spawning.wait(30) == 130
    assert strays.find_by_environment("LLORCH_HOME", str(home)) == []
    assert list((home / "workers").glob("worker-*.json")) == []


def test_jobs_through_orchestratord(tmp_path: Path) -> None:
    """submit streams, --detach prints the id, watch repeats the text; list, show, cancel and explain know the job."""
    env = environment(tmp_path)
    env["LLORCH_ORCHESTRATOR"] = "http://127.0.0.1:9"
    assert llorch("status", env=env).code == 5
    record = tmp_path / "state" / "orchestratord.json"
    with daemon("orchestratord", "--port", "0", env={**env, "LLORCH_ORCHESTRATOR": ""}):
        _wait_for(record.exists)
        env["LLORCH_ORCHESTRATOR"] = json.loads(record.read_text())["url"]
        with daemon("worker", "--model", "demo", "--port", "0", env=env):
            _wait_for(lambda: '"state": "ready"' in llorch("status", "--json", env=env).out)
            _jobs(env)


def _jobs(env: dict[str, str]) -> None:
    prompt = ("--prompt", "Once upon a time", "--max-tokens", "12", "--temperature", "0")
    submitted = llorch("jobs", "submit", "--model", "demo", *prompt, env=env)
    assert submitted.code == 0 and "tok/s" in submitted.err, submitted.err
    from_stdin = llorch("jobs", "submit", "--prompt", "-", *prompt[2:], env=env, stdin=b"Once upon a time")
    assert from_stdin.out == submitted.out
    detached = llorch("jobs", "submit", "--detach", *prompt, env=env)
    job_id = detached.out.strip()
    assert detached.code == 0 and re.fullmatch(r"job-[0-9a-f-]{36}", job_id)
    assert llorch("jobs", "watch", job_id, env=env).out == submitted.out
    events = [json.loads(line) for line in llorch("jobs", "watch", job_id, "--json", env=env).out.splitlines()]
    kinds = [event["type"] for event in events if event["type"] != "metrics"]
    assert kinds[:2] == ["queued", "started"] and kinds[-1] == "end" and set(kinds[2:-1]) == {"token"}
    listed = llorch("jobs", "list", env=env).out
    assert job_id in listed and listed.splitlines()[0].startswith("JOB")
    pages = json.loads(llorch("jobs", "list", "--limit", "2", "--json", env=env).out)
    assert len(pages["tasks"]) == 2 and pages["next"] is not None
    shown = json.loads(llorch("jobs", "show", job_id, "--json", env=env).out)
    assert shown["status"] == "completed"
    assert llorch("jobs", "show", job_id, env=env).code == 0
    assert llorch("jobs", "cancel", job_id, env=env).code == 0
    explained = llorch("jobs", "explain", job_id, env=env)
    assert explained.code == 0 and re.search(r"placed +worker-\S+ +attempt 1", explained.out), explained.out
    missing = llorch("jobs", "show", "job-none", env=env)
    assert missing.code == 4 and missing.out == ""
    refused = llorch("jobs", "submit", "--model", "no-such-model", "--prompt", "x", env=env)
    assert refused.code == 4 and refused.err.count("\n") == 1


def test_a_stream_survives_a_killed_orchestratord(tmp_path: Path) -> None:
    """kill -9 of orchestratord in mid-stream, started again on its port: the SDK's stream goes on, word for word."""
    env = environment(tmp_path)
    record = tmp_path / "state" / "orchestratord.json"
    request = InferenceRequest(prompt="Once upon a time", model="demo", max_tokens=200, temperature=0.0)
    with (
        daemon("orchestratord", "--port", "0", env=env) as first,
        daemon("worker", "--model", "demo", "--port", "0", env=env),
    ):
        _wait_for(record.exists)
        client = Client(json.loads(record.read_text())["url"], key="")
        _wait_for(lambda: any(worker["state"] == "ready" for worker in client.workers()["workers"]))
        undisturbed = [event for event in client.stream(request) if isinstance(event, Token)]
        disturbed: list[Token] = []
        with client.stream(request) as events, ExitStack() as second:
            for event in events:
                if isinstance(event, Token):
                    disturbed.append(event)
                    if event.i == 3:
                        first.kill()
                        first.wait()
                        port = str(client.endpoint.port)
                        second.enter_context(daemon("orchestratord", "--port", port, env=env))
                assert not isinstance(event, ErrorEvent), event
            assert isinstance(event, End)
    assert [token.i for token in disturbed] == list(range(len(disturbed)))
    assert "".join(token.t for token in disturbed) == "".join(token.t for token in undisturbed)


def _wait_for(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + START_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
