"""`llorch run`, the first evening: a new home, a hub on loopback, real daemons; everything is used again next time."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from daemons import call, environment, free_port, program, until

from llorch.host import process, strays
from tests.model.tiny_models import FAMILIES, SHAPE, write_tokenizer
from tests.pool.hub import Hub, Repository, serve
from tests.remote.cli import install_pool
from tests.remote.sshd import SSHD, running_sshd

pytestmark = pytest.mark.e2e
REPO = "Qwen/Qwen2.5-0.5B-Instruct"
TIMEOUT_S = 120
PRESS_S = 0.3
WARM_S_MAX = 1.0


@pytest.fixture(scope="module")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen2, as its hub repository would hold it."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("qwen")
    torch.manual_seed(7)
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**{**SHAPE, **FAMILIES["qwen2"][1]}))
    model.to(torch.bfloat16).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@dataclass
class Ran:
    code: int
    out: str
    err: str


@dataclass
class Evening:
    """One user in a new home."""

    home: Path
    hub: Hub
    env: dict[str, str] = field(default_factory=dict)

    def popen(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        argv = [*program("run"), *words]
        return subprocess.Popen(argv, env=self.env, **{"stdin": pipe, "stdout": pipe, "stderr": pipe, **options})

    def run(self, *words: str, stdin: bytes = b"") -> Ran:
        running = self.popen(*words)
        out, err = running.communicate(stdin, TIMEOUT_S)
        return Ran(running.returncode, out.decode(errors="replace"), err.decode(errors="replace"))

    @property
    def record(self) -> dict[str, Any]:
        """What orchestratord says of itself."""
        return json.loads((self.home / ".local/state/llorch/orchestratord.json").read_text())

    @property
    def workers(self) -> list[dict[str, Any]]:
        """The records of spawned workers."""
        folder = self.home / ".local/share/llorch/workers"
        files = [path for path in folder.glob("*.json") if not path.name.endswith(".status.json")]
        return [json.loads(path.read_text()) for path in files]

    def close(self) -> None:
        """Nothing of this user's is left."""
        for found in strays.find_by_environment("HOME", str(self.home)):
            if (started := process.start_time(found.pid)) is not None:
                process.terminate(found.pid, started, grace_s=5)


@pytest.fixture
def evening(tmp_path: Path, model_files: Path) -> Iterator[Evening]:
    home = tmp_path / "home"
    home.mkdir()
    with serve(Hub({REPO: Repository(model_files)})) as hub:
        more = {"HF_ENDPOINT": hub.url, "LLORCH_QUIET": "1", "HF_HUB_OFFLINE": "", "HF_HOME": str(home / "hf")}
        made = Evening(home, hub, environment(home, more))
        yield made
        made.close()


def warm_s(ran: Ran) -> float:
    """The figure of a warm call, in its last line."""
    found = re.search(r"run_warm_first_token_s=([0-9.]+)$", ran.err.strip())
    assert found, ran.err
    return float(found[1])


def test_a_piped_question_in_a_new_home_and_again(evening: Evening) -> None:
    """It answers and exits 0, says what it does, and the second call uses all of it and is fast."""
    first = evening.run("qwen-0.5b", stdin=b"Hello\n")
    assert first.code == 0, first.err
    assert " tokens, ttft" in first.err and "run_warm" not in first.err
    for said in ("fits", "bringing qwen-0.5b", "orchestratord started", "kill ", "starting a worker", "worker stop"):
        assert said in first.err
    fetched, workers, pid = evening.hub.file_bytes, evening.workers, evening.record["pid"]
    began = time.monotonic()
    second = evening.run("qwen-0.5b", stdin=b"Hello\n")
    took_s = time.monotonic() - began
    assert second.code == 0, second.err
    assert warm_s(second) <= min(WARM_S_MAX, took_s + 0.1)
    assert len(second.err.splitlines()) == 1
    assert (evening.hub.file_bytes, evening.workers, evening.record["pid"]) == (fetched, workers, pid)
    by_repository = evening.run(REPO, "--seed", "3", "Hello", "again", "--json", "--max-tokens", "8")
    body = json.loads(by_repository.out)
    assert body["warm"] and body["model"] == "qwen-0.5b" and body["seed"] == 3 and body["tokens_out"] <= 8
    assert body["worker_id"] == workers[0]["worker_id"] and body["first_token_s"] <= WARM_S_MAX


def test_two_at_once_bring_and_start_once(evening: Evening) -> None:
    """Of two first calls one prepares and the other waits: one download, one worker, one orchestratord."""
    calls = [evening.popen("qwen-0.5b", "Hello") for _ in range(2)]
    ends = [running.communicate(timeout=TIMEOUT_S) for running in calls]
    assert [running.returncode for running in calls] == [0, 0], ends
    assert all(b" tokens, ttft" in err for _, err in ends)
    weights = [path for path, _ in evening.hub.file_requests() if path.endswith(".safetensors")]
    assert len(weights) == 1 and len(evening.workers) == 1
    started = sum(b"orchestratord started" in err for _, err in ends)
    assert started == 1 and call(evening.record["url"], "GET", "/health").json["workers"] == 1


def test_two_models_at_once_start_one_orchestratord(evening: Evening) -> None:
    """They prepare side by side; the daemon is started by one of them."""
    calls = [evening.popen(model, "Hello") for model in ("qwen-0.5b", "demo")]
    ends = [running.communicate(timeout=TIMEOUT_S) for running in calls]
    assert [running.returncode for running in calls] == [0, 0], ends
    assert sum(b"orchestratord started" in err for _, err in ends) == 1
    assert sorted(record["model"] for record in evening.workers) == ["demo", "qwen-0.5b"]


def test_what_runs_already_is_used(evening: Evening) -> None:
    """A worker from before, which no orchestratord knew, is waited for and not doubled."""
    argv = [*program("llorch-pool"), "worker", "spawn", "cpu", "--model", "demo"]
    subprocess.run(argv, env=evening.env, check=True, capture_output=True, timeout=TIMEOUT_S)
    ran = evening.run("demo", "Once")
    assert ran.code == 0, ran.err
    assert len(evening.workers) == 1 and "serves demo already" in ran.err


def test_a_taken_port_is_no_obstacle_unless_it_was_chosen(evening: Evening) -> None:
    """A port that somebody set and another took is an error that says so, and nothing is left running."""
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen(1)
        evening.env["LLORCH_PORT"] = str(port)
        ran = evening.run("demo", "Once")
    assert ran.code == 1 and f"port {port}" in ran.err and "in use" in ran.err
    assert evening.workers == [] and strays.find_by_environment("HOME", str(evening.home)) == []


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (["qwen-0.5"], 4, "did you mean 'qwen-0.5b'?"),
        (["nobody/nothing", "Hi"], 4, "no repository nobody/nothing"),
        (["demo@main", "Hi"], 2, "models download demo@main"),
        (["demo", " "], 2, "empty"),
        (["demo", "Hi", "--max-tokens", "0"], 2, "--max-tokens: must be between"),
        (["demo", "Hi", "--temprature", "1"], 2, "did you mean '--temperature'?"),
        (["demo", "Hi", "--orchestrator", "http://127.0.0.1:9"], 5, "does not answer"),
    ],
)
def test_mistakes_start_nothing(evening: Evening, words: list[str], code: int, hint: str) -> None:
    """One line that says what is wrong, its exit code, and no daemon."""
    ran = evening.run(*words, stdin=b"Hi")
    assert ran.code == code and hint in ran.err, ran.err
    assert strays.find_by_environment("HOME", str(evening.home)) == []


def test_a_model_that_is_too_large_says_where_and_by_how_much(evening: Evening) -> None:
    """Not enough disk or memory: how much this pool lacks, and what would fit; nothing is fetched."""
    evening.hub.claim_bytes = 1 << 49
    ran = evening.run("qwen-0.5b", "Hi")
    assert ran.code == 1 and re.search(r"local lacks [0-9.]+ GB of disk \([0-9.]+ GB needed", ran.err), ran.err
    assert evening.hub.file_bytes == 0 and strays.find_by_environment("HOME", str(evening.home)) == []


def test_a_gated_repository_says_what_to_do(evening: Evening) -> None:
    """The hub's refusal becomes the hint with the licence page and HF_TOKEN."""
    evening.hub.repositories[REPO].gated = True
    ran = evening.run("qwen-0.5b", "Hi")
    assert ran.code == 1 and "is gated" in ran.err and "HF_TOKEN" in ran.err


def test_ctrl_c_while_bringing_leaves_no_process_and_the_next_goes_on(evening: Evening) -> None:
    """130, nothing runs on, and the same command finishes the work."""
    evening.hub.hold = threading.Event()
    running = evening.popen("qwen-0.5b", "Hi", start_new_session=True)
    until(lambda: evening.hub.file_requests(), "the download has begun", TIMEOUT_S)
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(TIMEOUT_S) == 130
    evening.hub.hold.set()
    until(lambda: strays.find_by_environment("HOME", str(evening.home)) == [], "no process is left")
    assert evening.run("qwen-0.5b", "Hi").code == 0


class Keyboard:
    """`llorch run` on a terminal of its own, as a person has it."""

    def __init__(self, evening: Evening, words: Sequence[str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(program("run")[0], [*program("run"), *words], {**evening.env, "TERM": "dumb"})
        self.seen = ""
        self.pressed_at = time.monotonic()

    def type(self, text: str) -> None:
        """Press keys once somebody waits for them: Python forgets a Ctrl-C between showing a prompt and waiting."""
        launched = psutil.Process(self.pid)
        words = launched.cmdline()  # the onefile is a launcher and its child; a daemon is a child, too, or its remains
        living = [child for child in launched.children() if child.status() != psutil.STATUS_ZOMBIE]
        program = next((child for child in living if child.cmdline() == words), launched)
        until(lambda: program.status() == psutil.STATUS_SLEEPING, "the program waits for a key")
        if text == "\x03":  # no finger presses twice in less; the second would be taken for the launcher's echo
            until(lambda: time.monotonic() > self.pressed_at + PRESS_S, "it can be pressed again")
            self.pressed_at = time.monotonic()
        os.write(self.fd, text.encode())

    def expect(self, text: str) -> str:
        """Read on until the screen shows `text`; what came before it, which is then forgotten."""
        deadline = time.monotonic() + TIMEOUT_S
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.fd, 65536).decode(errors="replace")
                except OSError:
                    raise AssertionError(self.seen) from None
        before, _, self.seen = self.seen.partition(text)
        return before

    def wait(self) -> int:
        """The exit code."""
        while select.select([self.fd], [], [], TIMEOUT_S)[0]:
            try:
                if not os.read(self.fd, 65536):
                    break
            except OSError:
                break
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return code


def test_a_chat_on_a_terminal(evening: Evening) -> None:
    """Several turns, help, several lines, Ctrl-C for the answer only, /clear, and Ctrl-D ends it with 0."""
    chat = Keyboard(evening, ["qwen-0.5b", "--max-tokens", "64"])
    chat.expect(">>> ")
    chat.type("/help\n")
    assert "/clear" in chat.expect(">>> ")
    chat.type("/byee\n")
    assert "did you mean '/bye'?" in chat.expect(">>> ")
    chat.type('"""Tell me\n')
    chat.expect("... ")
    chat.type('a story"""\n')
    chat.expect(">>> ")
    chat.type("/clear\n")
    assert "anew" in chat.expect(">>> ")
    [worker] = evening.workers
    os.kill(worker["pid"], signal.SIGSTOP)  # an answer that does not come
    chat.type("Hello?\n")
    tasks = str(evening.record["url"])
    until(lambda: call(tasks, "GET", "/v2/tasks").json["tasks"][0]["status"] == "running", "it is asked")
    chat.type("\x03")
    assert "was stopped" in chat.expect(">>> ")
    os.kill(worker["pid"], signal.SIGCONT)
    until(lambda: call(worker["url"], "GET", "/health").json["slots_busy"] == 0, "the slot is free")
    chat.type("again\\\n")
    chat.expect("... ")
    chat.type("\x03")  # the half message, not the chat
    chat.expect(">>> ")
    chat.type("\x04")
    assert chat.wait() == 0


def test_a_chat_mends_itself(evening: Evening) -> None:
    """What ends between two questions is started by the next; what ends in mid-answer is told, and can be left."""
    chat = Keyboard(evening, ["demo", "--max-tokens", "16"])
    chat.expect(">>> ")
    [worker] = evening.workers
    os.kill(worker["pid"], signal.SIGKILL)
    os.kill(evening.record["pid"], signal.SIGKILL)
    chat.type("Once\n")
    chat.expect("orchestratord started")
    assert "--max-tokens" in chat.expect(">>> ")
    [worker] = [row for row in evening.workers if row["worker_id"] != worker["worker_id"]]
    os.kill(worker["pid"], signal.SIGSTOP)
    chat.type("upon\n")
    tasks = str(evening.record["url"])
    until(lambda: call(tasks, "GET", "/v2/tasks").json["tasks"][0]["status"] == "running", "it is asked")
    os.kill(worker["pid"], signal.SIGKILL)
    chat.expect("no worker serves demo any more")
    chat.type("\x03")
    chat.expect(">>> ")
    chat.type("upon\n")
    assert "starting a worker" in chat.expect(">>> ")
    chat.type("\x04")
    assert chat.wait() == 0


def test_a_worker_that_dies_while_it_loads_is_not_waited_for(evening: Evening) -> None:
    """The next is started within seconds, and where the log of the dead one is shown is said."""
    argv = [*program("llorch-pool"), "worker", "spawn", "cpu", "--model", "demo", "--no-wait"]
    subprocess.run(argv, env=evening.env, check=True, capture_output=True, timeout=TIMEOUT_S)
    [stuck] = evening.workers
    os.kill(stuck["pid"], signal.SIGSTOP)
    running = evening.popen("demo", "Once")
    assert running.stderr is not None
    while b"waiting for it" not in (line := running.stderr.readline()):
        assert line, "it ended early"
    os.kill(stuck["pid"], signal.SIGKILL)
    began = time.monotonic()
    _, err = running.communicate(timeout=TIMEOUT_S)
    assert running.returncode == 0 and f"worker logs {stuck['worker_id']}".encode() in err, err
    assert time.monotonic() - began < 30


def test_ctrl_c_at_the_prompt_leaves(evening: Evening) -> None:
    """Where no answer comes, Ctrl-C ends the chat: 130."""
    chat = Keyboard(evening, ["demo"])
    chat.expect(">>> ")
    chat.type("\x03")
    assert chat.wait() == 130


def test_a_chat_survives_its_terminal_no_longer_but_its_daemons_do(evening: Evening) -> None:
    """The terminal is closed: the chat ends, orchestratord and worker stay and serve the next call warm."""
    chat = Keyboard(evening, ["demo"])
    chat.expect(">>> ")
    os.close(chat.fd)
    os.waitpid(chat.pid, 0)
    assert warm_s(evening.run("demo", "Once")) <= WARM_S_MAX


@pytest.mark.skipif(not SSHD.exists(), reason="needs OpenSSH's server: apt-get install openssh-server")
def test_a_pool_over_ssh(evening: Evening, tmp_path: Path) -> None:
    """--host brings and starts it there, not here; a pool that does not answer is left out; again it is warm."""
    with running_sshd(tmp_path / "ssh") as sshd:
        there = {"LLORCH_HOME": str(tmp_path / "there"), "LLORCH_STATE": str(tmp_path / "there-state")}
        wrapper = install_pool(sshd, {**there, "LLORCH_QUIET": "1", "HF_ENDPOINT": evening.hub.url})
        config = tmp_path / "llorch.toml"
        gone = '[pools.gone]\nhost = "127.0.0.1"\nport = 9\n'
        config.write_text(f'[pools.den]\nhost = "pool-a"\npath = "{wrapper}"\n{gone}')
        evening.home = sshd.home
        evening.env |= {"HOME": str(sshd.home), "LLORCH_CONFIG": str(config)}
        try:
            ran = evening.run("qwen-0.5b", "Hello", "--host", "den,gone")
            assert ran.code == 0 and ran.out.strip(), ran.err
            assert "left out: gone" in ran.err and "den: qwen-0.5b fits" in ran.err and "--host den" in ran.err
            assert evening.workers == [] and len(list((tmp_path / "there/workers").glob("worker-*.log"))) == 1
            assert warm_s(evening.run("qwen-0.5b", "Hello", "--host", "den")) > 0
            unreachable = evening.run("demo", "Hello", "--host", "gone")
            assert unreachable.code == 255 and "gone" in unreachable.err
        finally:
            evening.close()
            Evening(sshd.remote_home, evening.hub).close()
