"""`orchestratord`: the command line of the orchestrator daemon."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from llorch.base import log
from llorch.base.commands import Parser
from llorch.base.errors import UsageError
from llorch.base.log_file import LogFile
from llorch.host import runtime
from llorch.orchestratord import configuration
from llorch.orchestratord import settings as settings_table
from llorch.orchestratord.live_configuration import LiveConfiguration

DESCRIPTION = """The orchestrator daemon: takes jobs over HTTP, queues them durably, places them on workers and
streams their tokens back. Other commands, each with its own --help: 'keys' (client keys: create NAME, list, revoke
NAME), 'backup FILE' and 'restore FILE' (all of its state in one file)."""


# The store's writer wants the interpreter back after every statement; the default would cost each commit 5 ms a time.
SWITCH_S = 0.0005


def parser(prog: str) -> argparse.ArgumentParser:
    """The daemon's command line; manual pages are made of it."""
    made = Parser(prog=prog, description=DESCRIPTION, allow_abbrev=False)
    settings_table.add_flags(made)
    made.add_argument(
        "--dry-run", action="store_true", help="say what llorch.toml would change now, and change nothing"
    )
    made.add_argument("--json", action="store_true", help="with --dry-run: print JSON instead of text")
    return made


def main(argv: list[str], *, prog: str) -> int:
    """Run the daemon until a signal stops it, or one command on its state; the exit code."""
    if argv[:1] == ["keys"]:
        from llorch.orchestratord import keys_cli

        return keys_cli.main(argv[1:], prog=f"{prog} keys", env=os.environ)
    if argv and argv[0] in ("backup", "restore"):
        from llorch.orchestratord import backup_cli

        run = backup_cli.backup if argv[0] == "backup" else backup_cli.restore
        return run(argv[1:], prog=f"{prog} {argv[0]}", env=os.environ)
    flags = parser(prog).parse_args(argv)
    if flags.dry_run:
        from llorch.orchestratord import dry_run

        return dry_run.run(flags, os.environ)
    if flags.json:
        raise UsageError("--json goes with --dry-run")
    started = configuration.given(flags, os.environ)
    first = configuration.read(started)
    settings = first.settings
    runtime.become_one_folder(["orchestratord", *argv])
    log.set_up(settings.log_level, settings.log_format, LogFile(settings.log_file) if settings.log_file else None)
    from llorch.orchestratord import daemon

    sys.setswitchinterval(SWITCH_S)
    try:
        _run(daemon.run(LiveConfiguration(started, first)))
    except KeyboardInterrupt:
        return 130
    return 0


def _run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(work)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed: it halves the relay's CPU time per token."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
