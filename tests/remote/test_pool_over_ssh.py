"""`llorch pool … --host` through a real sshd: what the local command prints and returns, unchanged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import json_schema
from tests.remote.cli import Done, install_pool, llorch
from tests.remote.sshd import Sshd, program


@pytest.fixture
def pool_home(sshd: Sshd, tmp_path: Path) -> Iterator[Path]:
    """An empty LLORCH_HOME on the pool; profiles `a` and `b` both lead there, `gone` leads nowhere."""
    home = tmp_path / "pool"
    wrapper = install_pool(sshd, {"LLORCH_HOME": str(home), "LLORCH_STATE": str(tmp_path / "pool-state")})
    config = sshd.home / ".config" / "llorch" / "llorch.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(
        f'[pools.a]\nhost = "pool-a"\npath = "{wrapper}"\n[pools.b]\nhost = "pool-a"\npath = "{wrapper}"\n'
        '[pools.gone]\nhost = "127.0.0.1"\nport = 1\n'
    )
    yield home
    config.unlink()


def local(sshd: Sshd, home: Path, *words: str) -> Done:
    return llorch("pool", *words, env={**sshd.env, "LLORCH_HOME": str(home)})


@pytest.mark.parametrize(
    "words",
    [
        ("worker", "list"),
        ("worker", "list", "--json"),
        ("models", "catalog"),
        ("models", "info", "nonsense"),
        ("worker", "stop", "worker-cpu-none"),
        ("worker", "lits"),
        ("models", "register", "--id", "x", "--name", 'it\'s "a" $name\n', "--repo", "o/r", "--architecture", "llama"),
        ("models", "register", "--id", "UPPER"),
        ("models", "catalog", "--help"),
    ],
    ids=lambda words: " ".join(words)[:30],
)
def test_a_single_host_passes_everything_through(
    sshd: Sshd, pool_home: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """stdout and the exit code of the remote command are those of the same command run on that host."""
    here = local(sshd, tmp_path / "local", *words)
    there = llorch("pool", *words, "--host", "a", env=sshd.env)
    same = {str(tmp_path / "local"): str(pool_home), "llorch pool": "llorch-pool"}
    expected, got = here.out, there.out
    for old, new in same.items():
        expected, got = expected.replace(old, new), got.replace(old, new)
    assert (there.code, got) == (here.code, expected), there.err
    assert bool(here.err) == bool(there.err)


def test_status_over_ssh_is_as_its_schema_says(sshd: Sshd, pool_home: Path) -> None:
    """`status --host H --json` prints the facts of that host, valid by spec/pool_status.schema.json."""
    done = llorch("pool", "status", "--host", "a", "--json", env=sshd.env)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert list(json_schema.problems(found, json_schema.load("pool_status"))) == []
    assert found["disk"]["path"] == str(pool_home / "models")


def test_host_may_stand_anywhere(sshd: Sshd, pool_home: Path) -> None:
    """--host before the command, between its words, or with an equals sign."""
    for words in (
        ("--host", "a", "worker", "list"),
        ("worker", "--host", "a", "list"),
        ("worker", "list", "--host=a"),
        ("worker", "list", "--host", "pool-a"),
    ):
        done = llorch("pool", *words, env=sshd.env)
        assert done.code == (127 if words[-1] == "pool-a" else 0), done
    assert llorch("pool", "worker", "list", "--host", env=sshd.env).code == 2


def test_several_hosts_side_by_side(sshd: Sshd, pool_home: Path) -> None:
    """Lines are led by the host's name, a summary ends it, one failure makes it 1; --json gathers per host."""
    good = llorch("pool", "worker", "list", "--host", "a,b", env=sshd.env)
    assert good.code == 0 and "2 hosts, all ok" in good.err
    lines = good.out.splitlines()
    assert {line.split(": ")[0] for line in lines} == {"a", "b"}
    mixed = llorch("pool", "worker", "list", "--json", "--host", "all", env=sshd.env)
    answer = json.loads(mixed.out)
    assert mixed.code == 1 and list(answer) == ["a", "b", "gone"]
    assert answer["a"]["exit_code"] == 0 and isinstance(answer["a"]["output"], (list, dict))
    assert answer["gone"]["exit_code"] == 255 and "gone: connection refused" in mixed.err
    assert "3 hosts, 1 failed (gone: exit 255)" in mixed.err


def test_ssh_failures_are_255_with_one_line(sshd: Sshd, pool_home: Path) -> None:
    """A host that cannot be reached: one line on stderr, nothing on stdout, 255."""
    done = llorch("pool", "status", "--host", "gone", env=sshd.env)
    assert (done.code, done.out) == (255, "") and done.err.startswith("llorch: gone: ")
    assert done.err.count("\n") == 1
    done = llorch("pool", "status", "--host", "all", env={**sshd.env, "LLORCH_CONFIG": "/dev/null"})
    assert done.code == 4 and "pool register" in done.err


def test_interrupting_stops_the_remote_command(sshd: Sshd, tmp_path: Path) -> None:
    """Ctrl-C: exit 130 here, and the process over there is gone."""
    pid_file = tmp_path / "pid"
    slow = sshd.remote_bin / "llorch-pool"
    slow.write_text(f"#!/bin/sh\necho $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 60\n")
    slow.chmod(0o755)
    try:
        command = subprocess.Popen([*program(), "pool", "status", "--host", "pool-a"], env=sshd.env)
        _wait_for(pid_file.exists)
        command.send_signal(signal.SIGINT)
        assert command.wait(20) == 130
        _wait_for(lambda: not Path(f"/proc/{pid_file.read_text().strip()}").exists())
    finally:
        slow.unlink()


def _wait_for(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def spawn_line(sshd: Sshd, *words: str, env: dict[str, str] | None = None) -> tuple[Done, list[str], dict[str, object]]:
    """What a spawn sends: the words and the stdin line, caught by a stand-in on the pool's side."""
    catcher = sshd.remote_bin / "llorch-pool"
    catcher.write_text('#!/bin/sh\nprintf "%s\\n" "$@"; echo --; cat\n')
    catcher.chmod(0o755)
    try:
        done = llorch("pool", *words, "--host", "pool-a", env={**sshd.env, **(env or {})})
    finally:
        catcher.unlink()
    sent, _, line = done.out.partition("--\n") if "\n--\n" not in done.out else done.out.partition("\n--\n")
    return done, sent.split("\n"), json.loads(line)


def test_spawn_hands_the_token_over_on_stdin(sshd: Sshd, tmp_path: Path) -> None:
    """The token is made once (0600) and never stands in argv; bind and callback fit the session."""
    state = {"LLORCH_STATE": str(tmp_path / "state")}
    done, words, line = spawn_line(sshd, "worker", "spawn", "cpu", "--model", "demo", env=state)
    token_file = tmp_path / "state" / "worker-token"
    token = token_file.read_text().strip()
    assert done.code == 0 and words == ["worker", "spawn", "cpu", "--model", "demo", "--remote-stdin"]
    assert line == {
        "worker_token": token,
        "callback_url": "http://localhost:8080",
        "bind": "127.0.0.1",
        "insecure_lan": False,
    }
    assert token_file.stat().st_mode & 0o777 == 0o600 and token not in done.err
    again = spawn_line(sshd, "worker", "spawn", "cpu", "--model", "demo", env=state)[2]
    assert again["worker_token"] == token


def test_spawn_takes_the_operators_word(sshd: Sshd, tmp_path: Path) -> None:
    """--callback-url, --bind and --insecure-lan are ours: they travel in the line, loudly where they must."""
    state = {"LLORCH_STATE": str(tmp_path / "state"), "LLORCH_ORCHESTRATOR": "http://10.9.8.7:8080"}
    done, words, line = spawn_line(sshd, "worker", "spawn", "cpu", "--model", "demo", "--insecure-lan", env=state)
    assert line == {
        "worker_token": None,
        "callback_url": "http://10.9.8.7:8080",
        "bind": "127.0.0.1",
        "insecure_lan": True,
    }
    assert "WARNING" in done.err and "--insecure-lan" not in words
    assert not (tmp_path / "state").exists(), "without a token none is made"
    own = ("--callback-url", "http://x:1/p", "--bind=127.0.0.9")
    line = spawn_line(sshd, "worker", "spawn", "cpu", *own, "--model", "demo", env=state)[2]
    assert (line["callback_url"], line["bind"]) == ("http://x:1/p", "127.0.0.9")


def test_a_loopback_only_orchestratord_is_mentioned(sshd: Sshd, tmp_path: Path) -> None:
    """When ours listens on loopback only, one line says that other machines cannot reach it."""
    state = tmp_path / "state"
    state.mkdir()
    (state / "orchestratord.json").write_text(json.dumps({"url": "http://127.0.0.1:8080", "pid": os.getpid()}))
    done, _, _ = spawn_line(sshd, "worker", "spawn", "cpu", "--model", "demo", env={"LLORCH_STATE": str(state)})
    assert "loopback only" in done.err


def test_callbacks_are_rewritten_for_other_machines() -> None:
    """A loopback orchestrator means our end of the session, unless the pool is this machine or does not see us."""
    from llorch.remote.spawn import Spawning

    def callback(url: str, local: str | None, server: str) -> object:
        return json.loads(Spawning((), "t", url, None, None).stdin_line(local, server))["callback_url"]

    assert callback("http://localhost:8080", "192.0.2.1", "192.0.2.2") == "http://192.0.2.1:8080"
    assert callback("https://127.0.0.1/p", "fd00::1", "fd00::2") == "https://[fd00::1]/p"
    assert callback("http://localhost:8080", "127.0.0.1", "127.0.0.1") == "http://localhost:8080"
    assert callback("http://orch.lan:8080", "192.0.2.1", "192.0.2.2") == "http://orch.lan:8080"
    assert callback("http://localhost:8080", None, "192.0.2.2") is None
