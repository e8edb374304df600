"""Manual pages are made of the parsers: every role and every word with commands of its own has one."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from llorch import applets
from tests.daemons import ROOT

pytest.importorskip("argparse_manpage")


@pytest.fixture(scope="module")
def man() -> ModuleType:
    """build/man.py."""
    spec = importlib.util.spec_from_file_location("man", ROOT / "build" / "man.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_role_and_word_has_its_page(man: ModuleType) -> None:
    """Linked roles, then `llorch policy` and `llorch config`, then the commands on orchestratord's state."""
    pages = {parser.prog: man.render(parser) for parser in man.parsers()}
    words = [f"llorch {role.word}" for role in applets.ROLES if role.word and not role.linked and role.word != "self"]
    assert set(pages) >= {*applets.links(), *words, "orchestratord keys", "orchestratord backup"}
    for name, page in pages.items():
        assert page.startswith(".TH") and f".SH NAME\n{name} " in page.replace("\\-", "-")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("llorch policy", ("simulate", "replay", "check")),
        ("llorch config", ("show", "check", "origin")),
        ("orchestratord keys", ("create", "revoke", "tenant")),
        ("orchestratord", ("dry", "queue", "autospawn")),
    ],
)
def test_a_page_holds_its_commands_and_options(man: ModuleType, name: str, words: tuple[str, ...]) -> None:
    """What --help says, the page says."""
    (parser,) = [parser for parser in man.parsers() if parser.prog == name]
    page = man.render(parser)
    assert all(word in page for word in words)
