"""Manual pages, one per linked role and per word with commands of its own, from the parsers themselves.

`python build/man.py` writes build/out/man/*.1.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path

from argparse_manpage.manpage import Manpage

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "out" / "man"


def parsers() -> list[ArgumentParser]:
    """The whole command line of every role that is linked, then of the words that those pages do not hold."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from llorch import applets
    from llorch.orchestratord import backup_cli, config_cli, keys_cli, policy_cli
    from llorch.orchestratord.main import parser as orchestratord
    from llorch.pool.main import parser as pool
    from llorch.remote.main import COMMANDS
    from llorch.workerd.launch import parser as worker

    factories = {
        "llorch": COMMANDS.parser,
        "llorch-pool": pool,
        "orchestratord": orchestratord,
        "llorch-candled": worker,
    }
    words = {
        "llorch policy": policy_cli.parser,
        "llorch config": config_cli.parser,
        "orchestratord keys": keys_cli.parser,
        "orchestratord backup": backup_cli.backup_parser,
        "orchestratord restore": backup_cli.restore_parser,
    }
    roles = [factories[name](name) for name in applets.links()]
    return roles + [make(name) for name, make in words.items()]


def render(parser: ArgumentParser) -> str:
    """The page in troff; without a date of today, so that the same sources give the same page."""
    from llorch import __version__, applets

    role = applets.find(parser.prog)
    page = Manpage(parser, format="single-commands-section")
    page.description = role.help if role is not None else (parser.description or "").partition(".")[0]
    page.source = f"llorch {__version__}"
    page.manual = "llorch"
    page.date = ""
    return str(page).replace(".SH\nPOSITIONAL ARGUMENTS", ".SH COMMANDS")


def write_all() -> list[Path]:
    """Write every page; their paths."""
    OUT.mkdir(parents=True, exist_ok=True)
    pages = []
    for parser in parsers():
        pages.append(OUT / f"{parser.prog.replace(' ', '-')}.1")
        pages[-1].write_text(render(parser))
    return pages


if __name__ == "__main__":
    for written in write_all():
        print(written)
