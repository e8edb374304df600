"""Every command that the table can reach explains itself."""

from __future__ import annotations

import pytest

from llorch import applets
from llorch.pool import main as pool
from llorch.remote.main import COMMANDS


def _pool_leaves() -> list[tuple[str, ...]]:
    table = getattr(pool, "LEAVES", None) or pool.COMMANDS.leaves
    return list(table)


LINES = [
    *(["llorch", *name] for name in COMMANDS.leaves),
    *(["llorch", group] for group in COMMANDS.groups),
    *(["llorch-pool", *name] for name in _pool_leaves()),
    *([role.names[0]] for role in applets.ROLES if role.names),
    *(["llorch", role.word] for role in applets.ROLES if role.word),
    *(["llorch", "self", word] for word in ("version", "install", "links", "runtimes", "check")),
]


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_every_applet_and_leaf_answers_help(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` prints a usage line and exits 0, whatever the state of this host."""
    assert applets.main([*line, "--help"]) == 0
    assert "usage:" in capsys.readouterr().out


def test_the_table_knows_the_remote_words() -> None:
    """The words that `llorch --help` lists are those the remote CLI parses, no more and no fewer."""
    parsed = {name[0] for name in COMMANDS.leaves} - {"pool"}
    assert {word for word, _ in applets.REMOTE_WORDS} == parsed | {"keys"}
