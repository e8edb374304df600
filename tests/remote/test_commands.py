"""The words of `llorch`: help, suggestions, refusals, the profile writer, and which orchestrator is meant."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from llorch.base.errors import ConfigError, LlorchError, UsageError
from llorch.host.targets import find_target
from llorch.remote import main as remote
from llorch.remote import orchestrator, pools, terminal
from llorch.remote.main import COMMANDS
from tests.daemons import ROOT


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("LLORCH_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("name", COMMANDS.leaves, ids=" ".join)
def test_every_command_explains_itself(name: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """--help prints the usage of exactly that command and ends with 0."""
    with pytest.raises(SystemExit) as stop:
        remote.main([*name, "--help"], prog="llorch")
    assert stop.value.code == 0 and capsys.readouterr().out.startswith(f"usage: llorch {' '.join(name)}")


def test_the_list_and_the_groups() -> None:
    """No words, or a group alone, print their commands; the parser for manual pages holds every leaf."""
    assert remote.main([], prog="llorch") == 0
    assert remote.main(["jobs"], prog="llorch") == 0
    assert remote.main(["pool"], prog="llorch") == 0
    assert isinstance(COMMANDS.parser("llorch"), argparse.ArgumentParser)


def test_the_specification_names_every_command() -> None:
    """spec/cli.md has a word on each command of the table."""
    page = (Path(__file__).resolve().parents[2] / "spec" / "cli.md").read_text()
    shown = page.partition("## llorch-pool")[0]
    assert [name for name in COMMANDS.leaves if f"`{' '.join(name)}" not in shown] == []


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["infre"], "did you mean 'infer'?"),
        (["jobs", "submitt"], "did you mean 'submit'?"),
        (["jobs", "list", "--limt", "3"], "did you mean '--limit'?"),
        (["infer", "--prompt", "x"], "--worker"),
        (["bench", "--worker", "h:1", "--rounds", "0"], "at least 1"),
        (["pool", "install"], "--host"),
        (["pool", "--host", "a", "install", "--binry", "x"], "did you mean '--binary'?"),
        (["pool", "rollback", "--host", "a", "--prefix", "here"], "absolute path"),
        (["pool", "worker", "list"], "--host is missing"),
        (["jobs", "list", "--limit", "0"], "at least 1"),
        (["jobs", "submit", "--prompt", "x", "--temperature", "nan"], "--temperature"),
        (["infer", "--worker", "h:1", "--prompt", "x", "--top-p", "inf"], "--top-p"),
    ],
)
def test_usage_errors_help(words: list[str], hint: str) -> None:
    """A wrong word is a usage error (2) in one line, with what was probably meant."""
    with pytest.raises(UsageError) as error:
        remote.main(words, prog="llorch")
    assert hint in error.value.message and "\n" not in error.value.message and error.value.exit_code == 2


def test_hosts_are_taken_out_of_the_words() -> None:
    """--host may stand anywhere before `--`; everything else keeps its order."""
    assert pools.split_hosts(["--host", "a", "x", "--host=b,c", "y", "--", "--host", "z"]) == (
        ["a", "b,c"],
        ["x", "y", "--", "--host", "z"],
    )
    with pytest.raises(UsageError):
        pools.split_hosts(["x", "--host"])


def register(*words: str) -> int:
    return remote.main(["pool", "register", *words], prog="llorch")


def test_register_keeps_the_rest_of_the_file(tmp_path: Path) -> None:
    """A new profile is added and a known one changed in place; comments and other sections stay letter by letter."""
    path = tmp_path / ".config" / "llorch" / "llorch.toml"
    assert register("mac", "--host", "mac.home.arpa", "--user", "vince", "--label", "gpu", "--label", 'a"b\\ü') == 0
    assert path.stat().st_mode & 0o777 == 0o600
    before = (
        '# mine\norchestrator = "http://x:1"\n\n[pools.mac] # the mac\nhost = "m"\nport = 22\n'
        '# about blep\n[pools.blep]\nhost = "b"  # here\n\n[orchestratord]\nport = 1\n'
    )
    path.write_text(before)
    assert register("mac", "--user", "me", "--path", "~/llorch") == 0
    text = path.read_text()
    assert tomllib.loads(text)["pools"]["mac"] == {"host": "m", "port": 22, "user": "me", "path": "~/llorch"}
    for kept in ("# mine\n", '# about blep\n[pools.blep]\nhost = "b"  # here\n\n[orchestratord]\nport = 1\n'):
        assert kept in text
    assert register("new-one") == 0
    assert path.read_text().startswith(text) and tomllib.loads(path.read_text())["pools"]["new-one"] == {
        "host": "new-one"
    }


def test_a_profile_holds_what_other_parts_need(tmp_path: Path) -> None:
    """--mac is kept for waking the machine; values that nobody could use are refused by name."""
    path = tmp_path / ".config" / "llorch" / "llorch.toml"
    assert register("box", "--mac", "52:54:00:ab:cd:ef", "--label", "gpu") == 0
    assert tomllib.loads(path.read_text())["pools"]["box"]["mac"] == "52:54:00:ab:cd:ef"
    with pytest.raises(ConfigError, match="mac"):
        register("box", "--mac", "52:54")
    for line in ('labels = "gpu"', "labels = [1]", "limits = 3", 'mac = "x"', "repo = 1"):
        with pytest.raises(ConfigError, match=line.split()[0]):
            find_target("x", {"pools": {"x": tomllib.loads(line)}})


def test_register_refuses_what_it_cannot_keep(tmp_path: Path) -> None:
    """Misleading names, bad values, and a file that cannot be changed safely: nothing is written."""
    path = tmp_path / ".config" / "llorch" / "llorch.toml"
    for words in (("all",), ("a.b",), ("-x",), ("x", "--port", "0"), ("x", "--host", "-oProxyCommand=y")):
        with pytest.raises((LlorchError, SystemExit)):
            register(*words)
    assert not path.exists()
    inline = 'pools = { mac = { host = "m" } }\n'
    path.write_text(inline)
    with pytest.raises(ConfigError, match="by hand"):
        register("mac", "--user", "me")
    assert path.read_text() == inline


def test_which_orchestrator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--orchestrator, LLORCH_ORCHESTRATOR, llorch.toml, localhost:8080, in this order."""

    def url(flag: str | None = None) -> str:
        return orchestrator.connect(argparse.Namespace(orchestrator=flag, key_file=None)).url

    assert url() == "http://localhost:8080"
    path = tmp_path / ".config" / "llorch" / "llorch.toml"
    path.parent.mkdir(parents=True)
    path.write_text('orchestrator = "http://file:1"\n')
    assert url() == "http://file:1"
    monkeypatch.setenv("LLORCH_ORCHESTRATOR", "env:2")
    assert url() == "http://env:2"
    assert url("https://flag/") == "https://flag:443"


def test_model_text_cannot_command_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal control characters are replaced; into a pipe the text goes as it is."""
    text = "a\x1b]0;x\x07b\tc\nä\x9b1m"
    terminal.write(text)
    assert capsys.readouterr().out == text
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    terminal.write(text)
    assert capsys.readouterr().out == "a\ufffd]0;x\ufffdb\tc\nä\ufffd1m"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ([b"jobs", b"show", b"\xff"], "not UTF-8"),
        ([b"run", b"demo", b"\xff", b"--orchestrator", b"http://127.0.0.1:9"], "not UTF-8"),
        ([b"run", b"demo", b"hi", b"--system", b"\xff"], "--system is not UTF-8"),
        ([b"jobs", b"submit", b"--prompt", b"hi", b"--model", b"\xff"], "not UTF-8"),
        ([b"bench", b"--worker", b"\xff:1"], "is not a URL"),
        ([b"jobs", b"list", b"--orchestrator", b"http://a..b:1"], "is not a URL"),
        ([b"jobs", b"list", b"--orchestrator", b"http://" + 64 * b"a"], "is not a URL"),
    ],
)
def test_bytes_that_are_no_text_are_one_line(words: list[bytes], hint: str) -> None:
    """Exit code 2 and no traceback, whatever a shell may pass on."""
    ran = subprocess.run([sys.executable, "-m", "llorch", *words], cwd=ROOT, capture_output=True, check=False)
    said = ran.stderr.decode()
    assert ran.returncode == 2 and len(said.splitlines()) == 1 and hint in said, said
