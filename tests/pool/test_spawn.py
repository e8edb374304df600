"""`worker spawn` with the real worker and a tiny random model."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from worker_rig import write_model

from llorch.base.home import find_home
from llorch.host import process, strays
from llorch.pool import records
from tests.daemons import call, until
from tests.pool.pools import Pool


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny random Llama."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    write_model(folder)
    return folder


@pytest.fixture
def ready(pool: Pool, tiny: Path) -> Iterator[Pool]:
    """A pool whose catalog has the model `tiny`."""
    pool.ok("models", "import", str(tiny))
    yield pool
    home_id = (pool.home / "home-id").read_text().strip() if (pool.home / "home-id").exists() else "none"
    pool.run("worker", "stop-all", "--grace", "2")
    assert strays.find_by_environment(records.HOME_ID_VARIABLE, home_id) == []


def left_over(pool: Pool) -> set[str]:
    return {path.suffix for path in (pool.home / "workers").iterdir() if path.name != ".lock"}


@pytest.mark.e2e
def test_a_worker_is_spawned_used_and_stopped(ready: Pool) -> None:
    """S0's walk: spawn waits until ready, the worker answers, list shows it, stop-all leaves nothing but logs."""
    spawned = ready.ok("worker", "spawn", "cpu", "--model", "tiny", "--slots", "2", "--context", "256", "--json").json()
    worker = spawned["worker"]
    assert spawned["state"] == "ready"
    assert worker["worker_id"].startswith("worker-cpu-")
    assert worker["url"] == f"http://127.0.0.1:{worker['port']}"
    assert worker["port"] >= 8001
    answer = call(worker["url"], "POST", "/execute", {"job_id": "job-1", "prompt": "Once", "max_tokens": 3})
    assert answer.status == 200
    assert b'"type":"end"' in answer.body.replace(b" ", b"")
    (listed,) = ready.ok("worker", "list", "--json").json()["workers"]
    assert (listed["status"], listed["health"]["slots_total"]) == ("Running", 2)
    assert ready.run("models", "delete", "tiny", "-y").code == 1
    assert "stopped" in ready.ok("worker", "stop-all").out
    assert left_over(ready) == {".log"}
    assert not process.is_alive(worker["pid"], worker["start_time"])


@pytest.mark.e2e
def test_spawns_at_once_get_ports_of_their_own(ready: Pool) -> None:
    """Two at the same time never clash, also while the first still loads."""
    words = ("worker", "spawn", "--backend", "cpu", "--model", "tiny", "--slots", "1", "--json")
    running = [ready.popen(*words), ready.popen(*words, "--no-wait")]
    done = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], done
    workers = [json.loads(out)["worker"] for out, _ in done]
    assert len({worker["port"] for worker in workers}) == 2
    until(
        lambda: all(w["status"] == "Running" for w in ready.ok("worker", "list", "--json").json()["workers"]),
        "both workers run",
        60,
    )


@pytest.mark.e2e
def test_homes_of_one_host_do_not_fight_over_a_port(ready: Pool, tiny: Path, tmp_path: Path) -> None:
    """Another home knows nothing of our lock: when both choose the same port, one goes on to the next."""
    other = {"LLORCH_HOME": str(tmp_path / "other")}
    ready.ok("models", "import", str(tiny), **other)
    words = ("worker", "spawn", "cpu", "--model", "tiny", "--slots", "1", "--json")
    running = [ready.popen(*words), replace(ready, env={**ready.env, **other}).popen(*words)]
    done = [process.communicate(timeout=120) for process in running]
    ready.ok("worker", "stop-all", **other)
    assert [process.returncode for process in running] == [0, 0], done
    assert len({json.loads(out)["worker"]["port"] for out, _ in done}) == 2


@pytest.mark.e2e
def test_what_a_remote_caller_hands_over_reaches_the_worker(ready: Pool) -> None:
    """The token is in a private file and in no argv; the worker asks for it; stop removes it."""
    line = json.dumps({"worker_token": "s3cret-token-of-this-cluster-0123456789", "bind": "127.0.0.2"})
    words = ("worker", "spawn", "cpu", "--model", "tiny", "--slots", "1", "--json", "--remote-stdin")
    ran = ready.run(*words, stdin=line + "\n")
    assert ran.code == 0, ran.err
    worker = ran.json()["worker"]
    assert worker["url"].startswith("http://127.0.0.2:")
    token_path = records.token_path(find_home(ready.env), worker["worker_id"])
    assert token_path.stat().st_mode & 0o777 == 0o600
    assert b"s3cret" not in Path(f"/proc/{worker['pid']}/cmdline").read_bytes()
    body = {"job_id": "job-1", "prompt": "Once", "max_tokens": 1}
    assert call(worker["url"], "POST", "/execute", body).status == 401
    bearer = {"Authorization": f"Bearer {token_path.read_text().strip()}"}
    assert call(worker["url"], "POST", "/execute", body, bearer).status == 200
    ready.ok("worker", "stop", worker["worker_id"])
    assert not token_path.exists()


@pytest.mark.e2e
def test_a_worker_inherits_no_secrets_of_its_caller(ready: Pool) -> None:
    """The hub's tokens and a client's key end with the command; they are not in the worker's environment."""
    secrets = {"HF_TOKEN": "hf_s3cret", "LLORCH_API_KEY": "llk_s3cret"}
    ran = ready.ok("worker", "spawn", "cpu", "--model", "tiny", "--slots", "1", "--no-wait", "--json", **secrets)
    pid = ran.json()["worker"]["pid"]
    assert b"s3cret" not in Path(f"/proc/{pid}/environ").read_bytes()


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_while_loading_stops_the_worker_again(ready: Pool, number: signal.Signals) -> None:
    """Ctrl-C, SIGTERM or a lost session before it is ready: exit 130, no process, no record."""
    spawning = ready.popen("worker", "spawn", "cpu", "--model", "tiny")
    home = find_home(ready.env)
    (record,) = until(lambda: records.load_all(home), "the record")
    until(lambda: b"loads tiny" in os.read(spawning.stderr.fileno(), 4096), "it waits")  # type: ignore[union-attr]
    spawning.send_signal(number)
    _, err = spawning.communicate(timeout=30)
    if spawning.returncode == 0:
        pytest.skip("the worker was ready before the signal came")
    assert spawning.returncode == 130, err
    assert not record.is_alive()
    assert left_over(ready) == {".log"}


@pytest.mark.e2e
def test_a_worker_that_fails_leaves_its_last_words(ready: Pool) -> None:
    """A damaged model: exit 1, the reason and the log's end on stderr, no record; the log stays."""
    config = ready.home / "models" / "tiny" / "config.json"
    config.unlink()
    config.write_text("{broken")
    ran = ready.run("worker", "spawn", "cpu", "--model", "tiny")
    assert ran.code == 1
    assert "did not start" in ran.err
    assert "config.json" in ran.err
    assert left_over(ready) == {".log"}


def test_what_is_not_downloaded_is_not_spawned(pool: Pool) -> None:
    """Exit 4, with the command that helps."""
    ran = pool.run("worker", "spawn", "cpu", "--model", "mistral")
    assert ran.code == 4
    assert "llorch-pool models download mistral" in ran.err
    assert not (pool.home / "workers").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["metal", "--model", "demo"], 1, "backend metal is not available here"),
        (["cpuu", "--model", "demo"], 2, "unknown backend"),
        (["--model", "demo"], 2, "name one backend"),
        (["cpu", "--backend", "cuda", "--model", "demo"], 2, "two different"),
        (["cpu", "--model", "demo", "--gpu", "0"], 2, "--gpu"),
        (["cpu", "--model", "demo", "--port", "0"], 2, "--port"),
        (["cpu", "--model", "demo", "--worker-id", "../x"], 2, "--worker-id"),
        (["cpu", "--model", "demoo"], 4, "did you mean 'demo'"),
    ],
)
def test_wrong_requests_are_refused_before_anything_starts(
    pool: Pool, words: list[str], code: int, message: str
) -> None:
    """No silent fall-back to cpu, no guess: the reason, and nothing written."""
    ran = pool.run("worker", "spawn", *words)
    assert (ran.code, message in ran.err) == (code, True), ran.err
    assert not (pool.home / "workers").exists()


def test_a_port_in_use_is_refused(pool: Pool, tiny: Path) -> None:
    """A named port is taken or not; another is not chosen silently."""
    pool.ok("models", "import", str(tiny))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ran = pool.run("worker", "spawn", "cpu", "--model", "tiny", "--port", str(port))
    assert ran.code == 1
    assert f"port {port} is in use" in ran.err


def test_a_model_larger_than_the_memory_is_refused(pool: Pool, tiny: Path) -> None:
    """The numbers are named; --force is there for who knows better."""
    pool.ok("models", "import", str(tiny))
    path = pool.home / "catalog.json"
    stored = json.loads(path.read_bytes())
    stored["models"][0]["size_bytes"] = 1 << 49
    path.write_text(json.dumps(stored))
    ran = pool.run("worker", "spawn", "cpu", "--model", "tiny")
    assert ran.code == 1
    assert "of memory" in ran.err
