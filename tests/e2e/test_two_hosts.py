"""Two pool hosts and an operator's machine, each with its own network, processes and home, from the first copy of the
one file to the last trace of it: install, models, workers, jobs, a cable that is pulled, uninstall.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bare_host import PROGRAM
from daemons import Answer, call, stream, text_of, until

from llorch.host import runtime
from tests.e2e.namespaces import Machine, Network, Unavailable, home_of_root, laid_network, until_answers
from tests.pool.hub import Hub, Repository, serve
from tests.remote.sshd import SSHD, key_file

pytestmark = [pytest.mark.frozen, pytest.mark.e2e, pytest.mark.slow]

POOLS = ("a", "b")
REPO, MODEL = "acme/stories", "stories"
PORT = 8080
LOST_MAX_S, REJOINED_MAX_S = 8.0, 5.0
PROMPT = "Once upon a time"
# No end of text: token ids of the model's own eos_token_id.
ENDLESS = {"model": MODEL, "prompt": PROMPT, "temperature": 0, "logit_bias": {"0": -100, "2": -100}}


@dataclass
class Stage:
    """The three machines, and the operator's ways to them."""

    network: Network
    key: str = ""

    @property
    def operator(self) -> Machine:
        return self.network["operator"]

    @property
    def pools(self) -> list[Machine]:
        return [self.network[name] for name in POOLS]

    def llorch(self, *words: str) -> str:
        """What the operator's `llorch WORDS` prints."""
        done = self.tried(*words)
        assert done.returncode == 0, f"llorch {' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def tried(self, *words: str) -> subprocess.CompletedProcess[str]:
        """How the operator's `llorch WORDS` ended."""
        return self.operator.run([f"{home_of_root()}/llorch", *words])

    def everywhere(self, *words: str) -> dict[str, Any]:
        """The JSON of a pool command by host, after every host succeeded."""
        gathered = json.loads(self.llorch("pool", *words, "--host", ",".join(POOLS), "--json"))
        return {name: gathered[name]["output"] for name in POOLS}

    @property
    def url(self) -> str:
        return f"http://{self.operator.address}:{PORT}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def get(self, path: str) -> Answer:
        """GET from orchestratord; the caller is in the operator's network."""
        return call(self.url, "GET", path, headers=self.headers)

    def workers(self) -> dict[str, tuple[str, str]]:
        """Id and state of the worker of each pool."""
        rows = self.get("/v2/workers").json["workers"]
        names = {pool.address: pool.name for pool in self.pools}
        return {names[row["pool"]]: (row["worker_id"], row["state"]) for row in rows}


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Three machines; a, b run sshd and let the operator in; the operator has the one file and a key."""
    if not PROGRAM.is_file():
        pytest.skip("no frozen file: ./install.sh builds it")
    if not SSHD.exists():
        pytest.skip("needs OpenSSH's server: apt-get install openssh-server")
    folder = Path(tempfile.mkdtemp(prefix="llorch-two-hosts-"))
    try:
        with laid_network(folder, ["operator", *POOLS]) as network:
            made = Stage(network)
            shutil.copy(PROGRAM, made.operator.home / "llorch")
            yield made
    except Unavailable as error:
        pytest.skip(str(error))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def let_in(stage: Stage, sshd_lines: dict[str, str]) -> None:
    """Start sshd on the pools; the operator's key opens them and their host keys are known to it."""
    ssh = stage.operator.home / ".ssh"
    ssh.mkdir(mode=0o700)
    opens, known = key_file(ssh / "id_ed25519"), []
    for pool in stage.pools:
        etc = pool.folder / "ssh"
        known.append(f"{pool.address} {key_file(etc / 'host_key')}")
        (etc / "authorized_keys").write_text(opens + "\n")
        (etc / "sshd_config").write_text(
            "HostKey /etc/ssh/host_key\nAuthorizedKeysFile /etc/ssh/authorized_keys\nPidFile none\nStrictModes no\n"
            "UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
            f"Subsystem sftp internal-sftp\n{sshd_lines.get(pool.name, '')}\n"
        )
        (pool.folder / "run" / "sshd").mkdir()
        pool.start([SSHD, "-D", "-e"], pool.folder.with_suffix(".sshd.log"))
    (ssh / "known_hosts").write_text("\n".join(known) + "\n")
    for pool in stage.pools:
        until_answers(stage.operator, pool.address, 22)


def test_two_hosts(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """Every machine one can ssh to is a pool: used, cut off, back again, and left without a file or a process."""
    began = time.monotonic()
    hub = Hub({REPO: Repository(runtime.assets_dir() / "demo")})
    with stage.operator.entered(), serve(hub, address=stage.operator.address):
        let_in(stage, {"a": f"SetEnv HF_ENDPOINT={hub.url}"})
        before = {pool.name: (pool.files(), set(pool.processes())) for pool in stage.pools}
        install(stage)
        bring_the_model(stage, hub)
        walk_without_an_orchestrator(stage)
        with orchestratord(stage):
            both_work(stage)
            lost_s, rejoined_s = cut_off(stage)
            leave(stage)
        for pool in stage.pools:
            files, processes = before[pool.name]
            assert pool.files() - files == set()
            assert [command for pid, command in pool.processes().items() if pid not in processes] == []
    with capsys.disabled():
        took_s = time.monotonic() - began
        print(f"\ntwo_hosts=ok lost_s={lost_s:.2f} rejoined_s={rejoined_s:.2f} took_s={took_s:.1f}")


def install(stage: Stage) -> None:
    """The profiles, then the one file onto both at once."""
    for pool in stage.pools:
        stage.llorch("pool", "register", pool.name, "--host", pool.address)
    size_bytes = PROGRAM.stat().st_size
    for report in stage.everywhere("install").values():
        assert (report["outcome"], report["copied_bytes"]) == ("installed", size_bytes)
    assert {report["copied_bytes"] for report in stage.everywhere("install").values()} == {0}


def bring_the_model(stage: Stage, hub: Hub) -> None:
    """From the hub to a, which alone knows where it is; from there to b."""
    stage.llorch("pool", "models", "download", REPO, "--host", "a")
    asked = len(hub.requests)
    assert hub.file_bytes > 0 and asked > 0
    copied = stage.tried("pool", "models", "download", REPO, "--host", "b")
    assert copied.returncode == 0 and f"b: {REPO} comes from pool a" in copied.stderr, copied.stderr
    assert "through this machine" not in copied.stderr and len(hub.requests) == asked
    for answer in stage.everywhere("models", "list").values():
        assert MODEL in [row["id"] for row in answer["models"]]


def walk_without_an_orchestrator(stage: Stage) -> None:
    """S0's walk: spawn, infer, stop-all, on a with the cluster's token and on b for everybody."""
    a, b = stage.pools
    guarded = json.loads(stage.llorch("pool", "worker", "spawn", "cpu", "--model", MODEL, "--host", "a", "--json"))
    opened = json.loads(
        stage.llorch("pool", "worker", "spawn", "cpu", "--model", MODEL, "--host", "b", "--json", "--insecure-lan")
    )
    assert guarded["worker"]["url"] == f"http://{a.address}:8001"
    assert opened["worker"]["url"] == f"http://{b.address}:8001"
    said = [
        stage.llorch("infer", "--worker", f"{pool.address}:8001", "--prompt", PROMPT, "--max-tokens", "20")
        for pool in stage.pools
    ]
    assert all(len(text.split()) >= 5 for text in said)
    body = {"job_id": "job-1", "prompt": PROMPT, "max_tokens": 5}
    assert call(guarded["worker"]["url"], "POST", "/execute", body).status == 401
    with stream(opened["worker"]["url"], "POST", "/execute", body) as events:
        assert events.rest()[-1].data["type"] == "end"
    stage.everywhere("worker", "stop-all")
    assert all(answer["workers"] == [] for answer in stage.everywhere("worker", "list").values())


@contextmanager
def orchestratord(stage: Stage) -> Iterator[None]:
    """One on the operator's machine, at its address, for who has a key."""
    config = stage.operator.home / ".config" / "llorch" / "llorch.toml"
    config.write_text(f'orchestrator = "{stage.url}"\n' + config.read_text())
    program = f"{home_of_root()}/llorch"
    stage.key = stage.llorch("orchestratord", "keys", "create", "operator").strip()
    log = stage.operator.folder.with_suffix(".orchestratord.log")
    stage.operator.start([program, "orchestratord", "--bind", stage.operator.address, "--port", str(PORT)], log)
    until_answers(stage.operator, stage.operator.address, PORT)
    until(lambda: stage.get("/readyz").status == 200, "orchestratord is ready")
    assert call(stage.url, "GET", "/v2/workers").status == 401, "nobody gets in without a key"
    yield


def both_work(stage: Stage) -> None:
    """A worker on each announces itself, and jobs that come together go to both."""
    stage.everywhere("worker", "spawn", "cpu", "--model", MODEL)
    until(lambda: [state for _, state in stage.workers().values()] == ["ready", "ready"], "both workers are ready")
    used: list[str] = []

    def ask(number: int) -> None:
        task = {**ENDLESS, "max_tokens": 200, "seed": number}
        with stream(stage.url, "POST", "/v2/tasks?wait=stream", task, stage.headers) as events:
            used.extend(event.data["worker_id"] for event in events if event.data["type"] == "started")

    askers = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(60)
    assert len(used) == 6 and set(used) == {worker_id for worker_id, _ in stage.workers().values()}


def cut_off(stage: Stage) -> tuple[float, float]:
    """b's cable is pulled while it streams and put back; seconds until it is known as lost, and as ready again."""
    worker_a, worker_b = (stage.workers()[name][0] for name in POOLS)
    task = {**ENDLESS, "max_tokens": 1500}
    with stream(stage.url, "POST", "/v2/tasks?wait=stream", pinned(task, worker_a), stage.headers) as events:
        undisturbed = text_of(events.rest())
    preferring = {**task, "placement": {"prefer_pools": [stage.network["b"].address]}}
    with stream(stage.url, "POST", "/v2/tasks?wait=stream", preferring, stage.headers) as events:
        seen = events.take(5)
        assert next(event.data["worker_id"] for event in seen if event.data["type"] == "started") == worker_b
        stage.network.unplug("b")
        cut_at = time.monotonic()
        watcher = Watcher(stage, "b", "lost")
        seen += events.rest()
    assert seen[-1].data["type"] == "end" and text_of(seen) == undisturbed
    assert stage.get("/v2/tasks").json["tasks"][0]["worker_id"] == worker_a
    lost_s = watcher.seen_at() - cut_at
    stage.network.plug("b")
    back_at = time.monotonic()
    rejoined_s = Watcher(stage, "b", "ready").seen_at() - back_at
    with stream(stage.url, "POST", "/v2/tasks?wait=stream", pinned(task, worker_b), stage.headers) as events:
        assert text_of(events.rest()) == undisturbed
    assert lost_s <= LOST_MAX_S and rejoined_s <= REJOINED_MAX_S, (lost_s, rejoined_s)
    return lost_s, rejoined_s


def leave(stage: Stage) -> None:
    """Everything of ours goes, from a at once; b kept its models first."""
    assert [len(answer["workers"]) for answer in stage.everywhere("status").values()] == [1, 1]
    stage.everywhere("doctor")
    kept = json.loads(stage.llorch("pool", "uninstall", "--yes", "--host", "b", "--json"))
    assert kept["state"] == "removed" and len(kept["processes"]) == 1
    gone = stage.everywhere("uninstall", "--purge", "--yes")
    assert [(answer["state"], len(answer["processes"])) for answer in gone.values()] == [("removed", 1), ("removed", 0)]


def pinned(task: dict[str, Any], worker_id: str) -> dict[str, Any]:
    return {**task, "placement": {"pin_worker": worker_id}}


class Watcher:
    """Notes, beside what else happens, when the worker of a pool comes into a state."""

    def __init__(self, stage: Stage, pool: str, state: str) -> None:
        self._wanted = (stage, pool, state)
        self._seen_at = 0.0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        stage, pool, state = self._wanted
        until(lambda: stage.workers()[pool][1] == state, f"the worker of {pool} is {state}", 30.0)
        self._seen_at = time.monotonic()

    def seen_at(self) -> float:
        """When (monotonic seconds), after waiting for it."""
        self._thread.join(40)
        assert self._seen_at, f"not seen: {self._wanted[1:]}"
        return self._seen_at
