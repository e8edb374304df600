"""`llorch init`: good answers make a file that every reader takes; nothing is overwritten unasked."""

from __future__ import annotations

import argparse
import json
import os
import pty
import select
import stat
import time
from pathlib import Path

import pytest

from llorch.base import config
from llorch.base.errors import UsageError
from llorch.host.targets import find_targets
from llorch.orchestratord import configuration, settings
from llorch.remote import first_config
from tests.remote.cli import Done, llorch
from tests.remote.sshd import ROOT, program

TIMEOUT_S = 60.0


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A new user, whose configuration is not there yet."""
    kept = {k: v for k, v in os.environ.items() if k == "LLORCH_CACHE" or not k.startswith(("LLORCH_", "XDG_"))}
    return {**kept, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "TERM": "dumb"}


def file_of(env: dict[str, str]) -> Path:
    return Path(env["HOME"]) / ".config" / "llorch" / "llorch.toml"


def init(env: dict[str, str], *words: str) -> Done:
    return llorch("init", *words, env=env)


def read_by_all(path: Path) -> settings.Settings:
    """What orchestratord makes of the file; llorch's own reader and the pools' have seen it before."""
    read = config.load_file(path)
    assert len(find_targets(list(read.get("pools", {})), read)) == len(read.get("pools", {}))
    flags = argparse.ArgumentParser()
    settings.add_flags(flags)
    started = configuration.given(flags.parse_args(["--config", str(path)]), {"HOME": str(path.parent)})
    return configuration.read(started).settings


def test_defaults_from_a_pipe(env: dict[str, str]) -> None:
    """--yes asks nothing: a home, this machine alone, on loopback; the file is its owner's."""
    done = init(env, "--yes", "--json")
    assert done.code == 0, done.err
    body = json.loads(done.out)
    assert body["written"] and body["path"] == str(file_of(env)) and body["text"] == file_of(env).read_text()
    assert stat.S_IMODE(file_of(env).stat().st_mode) == 0o600
    made = read_by_all(file_of(env))
    assert (made.mode.value, made.bind, made.port) == ("home", "127.0.0.1", 8080)


def test_every_answer_as_a_flag(env: dict[str, str]) -> None:
    """Flags answer all three questions, so nobody has to be there."""
    done = init(env, "--mode", "lab", "--host", "alice@den.lan:2222,10.0.0.7", "--listen", "0.0.0.0:9000")
    assert done.code == 0, done.err
    made = read_by_all(file_of(env))
    assert (made.mode.value, made.bind, made.port) == ("lab", "0.0.0.0", 9000)
    [den, address] = find_targets(["all"], config.load_file(file_of(env)))
    assert (den.name, den.host, den.user, den.port) == ("den", "den.lan", "alice", 2222)
    assert (address.name, address.host) == ("10-0-0-7", "10.0.0.7")
    assert "keys create" in done.out and "pool install --host den,10-0-0-7" in done.out


def test_nothing_is_overwritten_unasked(env: dict[str, str]) -> None:
    """A file that is there stays; --force replaces it and keeps it; an unanswered question is a usage error."""
    assert init(env, "--mode", "home").code == 2 and not file_of(env).exists()
    assert init(env, "--yes", "--dry-run").out.startswith("# Written") and not file_of(env).exists()
    file_of(env).parent.mkdir(parents=True)
    file_of(env).write_text("# mine\n")
    refused = init(env, "--yes")
    assert refused.code == 1 and "--force" in refused.err and file_of(env).read_text() == "# mine\n"
    assert init(env, "--yes", "--force").code == 0 and "[orchestratord]" in file_of(env).read_text()
    assert file_of(env).with_name("llorch.toml.old").read_text() == "# mine\n"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--mode", "labb"], "did you mean 'lab'?"),
        (["--host", "a b@c@d"], "--host: "),
        (["--host", "den:99999"], "1 to 65535"),
        (["--host", "-oProxyCommand=x"], "--host"),
        (["--listen", "127.0.0.1:0"], "no place to listen"),
        (["--listen", "here:there"], "no place to listen"),
    ],
)
def test_bad_answers_are_refused(env: dict[str, str], words: list[str], hint: str) -> None:
    """One line, exit 2, nothing written."""
    done = init(env, "--yes", *words)
    assert done.code == 2 and hint in done.err, done.err
    assert not file_of(env).exists()


def test_answers_and_what_they_mean() -> None:
    """Addresses of both families, ports alone, names that would clash, and quotes that must not break the file."""
    assert first_config.read_listen("9000") == first_config.Listen("127.0.0.1", 9000)
    assert first_config.read_listen("[::1]:9000") == first_config.Listen("::1", 9000)
    assert first_config.read_listen("::1") == first_config.Listen("::1", 8080)
    assert first_config.read_listen("localhost").is_local
    assert [pool.name for pool in first_config.read_pools("a.x, a.y a.x")] == ["a", "a-2"]
    assert first_config.read_pools("none") == []
    with pytest.raises(UsageError):
        first_config.read_pools('x"y')


def test_the_questions_on_a_terminal(env: dict[str, str]) -> None:
    """A bad answer is asked again, an empty one is the default, the file is shown, and `no` writes nothing."""
    assert talk(env, ["labb", "lab", "den", "", "n"]) == 1
    assert not file_of(env).exists()
    assert talk(env, ["", "", "", ""]) == 0
    assert read_by_all(file_of(env)).mode.value == "home"
    before = file_of(env).read_text()
    assert talk(env, ["lab", "", "", ""]) == 1  # replacing is not the default
    assert file_of(env).read_text() == before
    assert talk(env, ["lab", "", "", "y"]) == 0
    assert read_by_all(file_of(env)).mode.value == "lab"


def talk(env: dict[str, str], answers: list[str]) -> int:
    """Answer one question after the other on a terminal; the exit code."""
    argv = [*program(), "init"]
    pid, fd = pty.fork()
    if pid == 0:
        os.execvpe(argv[0], argv, env)
    seen, deadline = "", time.monotonic() + TIMEOUT_S
    while True:
        assert time.monotonic() < deadline, seen
        if not select.select([fd], [], [], 0.2)[0]:
            continue
        try:
            seen += os.read(fd, 4096).decode()
        except OSError:  # it has ended
            break
        if seen.endswith("] "):
            os.write(fd, answers.pop(0).encode() + b"\n")
            seen = ""
    os.close(fd)
    assert answers == [], seen
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
