"""The command table: every command explains itself, typing errors are answered, and starting stays light."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from llorch.base.errors import UsageError
from llorch.pool import main as pool_main
from tests.pool.pools import Pool

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", list(pool_main.LEAVES), ids=" ".join)
def test_every_command_explains_itself(name: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """--help exits 0 and names the command and --json."""
    with pytest.raises(SystemExit) as stopped:
        pool_main.main([*name, "--help"], prog="llorch-pool")
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: llorch-pool {' '.join(name)}")
    assert "--json" in out


@pytest.mark.parametrize("words", [[], ["-h"], ["models"], ["worker", "--help"]])
def test_help_lists_the_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """No words, a group alone, or -h: the list, exit 0."""
    assert pool_main.main(words, prog="llorch-pool") == 0
    out = capsys.readouterr().out
    expected = [" ".join(name) for name in pool_main.LEAVES if words[:1] in ([], ["-h"], [name[0]])]
    assert all(f"  {name} " in out for name in expected)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["wrker", "list"], "did you mean 'worker'"),
        (["worker", "lst"], "did you mean 'list'"),
        (["models", "downlod", "x"], "did you mean 'download'"),
        (["git", "pul"], "did you mean 'pull'"),
    ],
)
def test_a_typing_error_is_answered_with_the_nearest_word(words: list[str], hint: str) -> None:
    """Unknown words are a usage error with a suggestion."""
    with pytest.raises(UsageError, match=hint) as caught:
        pool_main.main(words, prog="llorch-pool")
    assert caught.value.exit_code == 2


def test_the_manual_page_parser_has_every_command() -> None:
    """The parser of all commands, which manual pages are made from, agrees with the table."""
    found = set()

    def walk(parser: argparse.ArgumentParser, words: tuple[str, ...]) -> None:
        nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if not nested:
            found.add(words)
        for action in nested:
            for name, below in action.choices.items():
                walk(below, (*words, name))

    walk(pool_main.parser(), ())
    assert found == set(pool_main.LEAVES)


def test_usage_errors_exit_with_2(pool: Pool) -> None:
    """argparse's own complaints are usage errors, too."""
    assert pool.run("models", "info").code == 2


def test_listing_workers_imports_nothing_heavy(pool: Pool) -> None:
    """Every remote command waits for this start: no asyncio, no aiohttp, no hub library, no psutil, no torch."""
    program = (
        "import sys\n"
        "sys.argv = ['llorch-pool', 'worker', 'list']\n"
        "from llorch.applets import main\n"
        "assert main() == 0\n"
        "heavy = ['asyncio', 'aiohttp', 'huggingface_hub', 'psutil', 'torch', 'asyncssh', 'ssl', 'httpx2']\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], env=pool.env, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines()[-1] == "[]"
