"""Which role a name or a first word starts, and the error policy they share."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

from llorch import __version__, applets
from llorch.base.errors import NotFound
from llorch.workerd import launch


class Recorder:
    """Stands for a role's entry point: notes how it was called."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str], str]] = []
        self.error: BaseException | None = None

    def entry(self, target: str) -> types.FunctionType:
        """A `main` that records calls under `target`."""

        def main(argv: list[str], *, prog: str) -> int:
            self.calls.append((target, argv, prog))
            if self.error is not None:
                raise self.error
            return 0

        return main


@pytest.fixture
def roles(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Replace what the table loads, so that dispatch is tested alone."""
    recorder = Recorder()
    monkeypatch.setattr(applets, "_load", lambda target: recorder.entry(target.split(".")[1].partition(":")[0]))
    return recorder


@pytest.mark.parametrize(
    ("argv", "role", "args"),
    [
        (["/x/llorch", "infer", "--prompt", "a"], "remote", ["infer", "--prompt", "a"]),
        (["rbees", "jobs", "list"], "remote", ["jobs", "list"]),
        (["llorch-1.2", "status"], "remote", ["status"]),
        (["llorch", "--orchestrator", "http://h", "jobs"], "remote", ["--orchestrator", "http://h", "jobs"]),
        (["llorch", "run", "demo"], "remote", ["run", "demo"]),
        (["llorch-pool", "worker", "list"], "pool", ["worker", "list"]),
        (["rbees-pool", "status"], "pool", ["status"]),
        (["llorch", "pool", "worker", "list"], "pool", ["worker", "list"]),
        (["llorch", "llorch-pool", "worker", "list"], "pool", ["worker", "list"]),
        (["llorch", "pool", "worker", "list", "--host", "mac"], "remote", ["pool", "worker", "list", "--host", "mac"]),
        (["llorch", "pool", "--host=mac", "status"], "remote", ["pool", "--host=mac", "status"]),
        (["llorch", "pool", "register", "mac"], "remote", ["pool", "register", "mac"]),
        (["llorch", "pool", "models", "register"], "pool", ["models", "register"]),
        (["llorch", "pool", "x", "--", "--host"], "pool", ["x", "--", "--host"]),
        (["orchestratord", "--port", "1"], "orchestratord", ["--port", "1"]),
        (["rbees-orcd"], "orchestratord", []),
        (["llorch", "orchestratord", "--port", "1"], "orchestratord", ["--port", "1"]),
        (["llorch", "worker", "--model", "demo"], "workerd", ["--model", "demo"]),
        (["llorch", "--model", "demo", "--port", "8001"], "workerd", ["--model", "demo", "--port", "8001"]),
        (["llorch", "--port", "8001", "--model=demo"], "workerd", ["--port", "8001", "--model=demo"]),
        (["rbees-workerd", "--model", "m"], "workerd", ["--model", "m"]),
        (["llorch-cpu-candled", "--model", "m"], "workerd", ["--backend", "cpu", "--model", "m"]),
        (["llorch", "llorch-cuda-candled"], "workerd", ["--backend", "cuda"]),
        (["llorch", "llorch", "infer"], "remote", ["infer"]),
        (["llorch", "self", "version"], "applets", ["version"]),
        (["orchestratord", "self", "version"], "applets", ["version"]),
        (["llorch", "worker", "self", "version"], "applets", ["version"]),
    ],
)
def test_name_and_first_word_choose_the_role(roles: Recorder, argv: list[str], role: str, args: list[str]) -> None:
    """argv[0]'s base name chooses first, then the first word; the role gets the rest."""
    assert applets.main(argv) == 0
    assert [(call[0], call[1]) for call in roles.calls] == [(role, args)]


def test_a_worker_may_be_started_by_any_of_its_flags(roles: Recorder) -> None:
    """`llorch --slots 4 --model demo`: whichever flag of the worker stands first, it is a worker."""
    flags = {flag for action in launch.parser("x")._actions for flag in action.option_strings if flag.startswith("--")}
    for flag in sorted(flags - {"--help"}):
        applets.main(["llorch", flag, "4", "--model", "demo"])
        assert roles.calls.pop() == ("workerd", [flag, "4", "--model", "demo"], "llorch")


def test_roles_are_told_how_they_were_called(roles: Recorder) -> None:
    """`prog` is what the user typed, so that usage lines can be copied."""
    applets.main(["/usr/bin/llorch-pool", "status"])
    applets.main(["llorch", "pool", "status"])
    assert [call[2] for call in roles.calls] == ["llorch-pool", "llorch pool"]


@pytest.mark.parametrize("words", [["infr"], ["9"], ["job"]])
def test_an_unknown_word_exits_127_and_lists_the_commands(
    roles: Recorder, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Unknown gives 127, one line, the list, and what was probably meant."""
    assert applets.main(["llorch", *words]) == 127
    error = capsys.readouterr().err
    assert error.startswith(f"llorch: unknown command '{words[0]}'")
    assert error.count("\n") == 1
    assert all(word in error for word in ("pool", "worker", "orchestratord", "infer", "demo"))
    assert ("did you mean" in error) == (words[0] != "9")


@pytest.mark.parametrize("word", applets.POOL_WORKER_WORDS)
def test_a_pool_word_after_worker_is_a_hint(roles: Recorder, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`llorch worker list` is the pool's command: exit 2 and the line to type."""
    assert applets.main(["llorch", "worker", word]) == 2
    assert f"llorch pool worker {word}" in capsys.readouterr().err
    assert not roles.calls


@pytest.mark.parametrize("argv", [["llorch"], ["llorch", "--help"], ["llorch", "-h"], ["renamed", "help"]])
def test_help_lists_every_role_and_word(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """`llorch --help`, and `llorch` alone, list everything that dispatch knows."""
    assert applets.main(argv) == 0
    text = capsys.readouterr().out
    for word in [role.word or role.linked for role in applets.ROLES] + [word for word, _ in applets.REMOTE_WORDS]:
        assert not word or word == "llorch" or f"  {word} " in text


@pytest.mark.parametrize(
    "argv", [["llorch", "--version"], ["llorch-pool", "--version"], ["llorch", "worker", "--version"]]
)
def test_every_role_says_its_version(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` needs no role."""
    assert applets.main(argv) == 0
    assert capsys.readouterr().out.endswith(f" {__version__}\n")


def test_an_error_of_the_world_is_one_line_and_its_exit_code(
    roles: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    """LlorchError: `llorch: message`, no traceback, the class's exit code."""
    roles.error = NotFound("no such\nthing")
    assert applets.main(["llorch-pool", "status"]) == 4
    assert capsys.readouterr().err == "llorch: no such thing\n"


def test_debug_shows_where_an_error_came_from(
    roles: Recorder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--debug` anywhere adds the traceback and is not passed on."""
    monkeypatch.setenv("LLORCH_DEBUG", "0")
    roles.error = NotFound("gone")
    assert applets.main(["llorch-pool", "status", "--debug"]) == 4
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.endswith("llorch: gone\n")
    assert roles.calls[0][1] == ["status"]


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (SystemExit(2), 2), (SystemExit(None), 0), (SystemExit("text"), 1)]
)
def test_other_ends_have_their_codes(roles: Recorder, error: BaseException, code: int) -> None:
    """Ctrl-C is 130; what argparse exits with passes through."""
    roles.error = error
    assert applets.main(["llorch-pool", "status"]) == code


@pytest.mark.parametrize("command", ["--help", "self version", "pool worker list"])
@pytest.mark.parametrize("redirection", ["> /dev/full", ">&-"])
def test_output_that_cannot_be_written_is_one_line(command: str, redirection: str) -> None:
    """A full disk behind stdout ends with one line and 1; a closed stdout is nobody's error. Never a traceback."""
    line = f"{sys.executable} -m llorch {command} {redirection}"
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, timeout=60)
    full = "full" in redirection
    assert done.returncode == (1 if full else 0)
    assert done.stderr == ("llorch: cannot write the output: No space left on device\n" if full else "")


def test_the_table_imports_nothing_of_its_own() -> None:
    """Dispatch must cost nothing: applets imports what the interpreter has loaded already, and errno."""
    import ast
    import inspect

    tree = ast.parse(inspect.getsource(applets))
    imported = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [alias.name for node in imported for alias in node.names] == ["errno", "os", "sys"]
