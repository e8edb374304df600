"""`llorch init`: three questions make the first llorch.toml. A file that is there is replaced only when told to."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from llorch.base import config
from llorch.base.errors import HostError, UsageError
from llorch.host import disk
from llorch.remote import first_config, terminal
from llorch.remote.first_config import MODES

Value = TypeVar("Value")
_MODE = 0o600
_OLD = ".old"


def init_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch init`; each of the first three answers a question."""
    parser.add_argument("--mode", metavar="|".join(MODES), help="who uses it (default home)")
    parser.add_argument(
        "--host", action="append", metavar="HOST[,HOST …]", help="other machines; '' for none (default)"
    )
    parser.add_argument("--listen", metavar="ADDRESS[:PORT]", help="where orchestratord listens")
    parser.add_argument("--yes", action="store_true", help="ask nothing: defaults for what is not given")
    parser.add_argument("--force", action="store_true", help="replace a file that is there; it is kept as .old")
    parser.add_argument("--dry-run", action="store_true", help="print the file, write nothing")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.epilog = "example: llorch init --mode home --host alice@den.lan,attic --listen 127.0.0.1 --yes"


def init(arguments: argparse.Namespace) -> int:
    """JSON: {path, text, written, next}."""
    path = config.config_path(os.environ).absolute()
    is_there = path.exists() and bool(path.read_bytes().strip())
    if is_there and not (arguments.force or arguments.dry_run) and not _can_ask(arguments):
        raise HostError(f"{path} is there already; --force replaces it (and keeps it as {path.name}{_OLD})")
    mode = _answer(arguments, "mode", _about_modes(), "home", first_config.read_mode)
    hosts = "Which other machines may serve, as [USER@]HOST[:PORT] for ssh, separated by commas?"
    pools = _answer(arguments, "host", hosts, "", first_config.read_pools)
    where = "Where shall orchestratord listen? Beyond this machine it asks for keys."
    listen = _answer(arguments, "listen", where, first_config.default_listen(mode), first_config.read_listen)
    text = first_config.text(mode, pools, listen)
    written = not arguments.dry_run and _agreed(arguments, path, text, is_there=is_there)
    if written:
        _write(path, text)
    steps = first_config.next_steps(pools, listen)
    if arguments.json:
        terminal.write_json({"path": str(path), "text": text, "written": written, "next": steps})
    elif arguments.dry_run:
        print(text, end="")
    elif written:
        print("\n".join([f"Written: {path}", "Next:", *(f"  {step}" for step in steps)]))
    else:
        terminal.tell("nothing was written")
    return 0 if written or arguments.dry_run else 1


def _about_modes() -> str:
    return "\n".join([*(f"  {name:<9} {about}" for name, about in MODES.items()), "Who uses it?"])


def _can_ask(arguments: argparse.Namespace) -> bool:
    return not arguments.yes and sys.stdin is not None and sys.stdin.isatty()


def _answer(
    arguments: argparse.Namespace, name: str, question: str, default: str, read: Callable[[str], Value]
) -> Value:
    """The flag, else what the person says, asked until it is good, else (--yes) the default. Raises UsageError."""
    given = getattr(arguments, name)
    if given is not None:
        try:
            return read(",".join(given) if isinstance(given, list) else given)
        except UsageError as error:
            raise UsageError(f"--{name}: {error.message}") from None
    if arguments.yes:
        return read(default)
    if not _can_ask(arguments):
        raise UsageError(f"nobody to ask: answer with --{name}, or take the defaults with --yes")
    while True:
        said = _ask(f"{question} [{default or 'none'}] ")
        try:
            return read(said or default)
        except UsageError as error:
            terminal.tell(error.message)


def _ask(question: str) -> str:
    """A line of the keyboard. Raises UsageError at its end."""
    print(question, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        raise UsageError("no answer: nothing was written")
    return line.strip()


def _agreed(arguments: argparse.Namespace, path: Path, text: str, *, is_there: bool) -> bool:
    """Show what will be written and ask, where there is somebody; replacing a file is never the default answer."""
    if not _can_ask(arguments):
        return True
    print(f"\n{text}", file=sys.stderr)
    if is_there and not arguments.force:
        return _ask(f"{path} is there; replace it (kept as {path.name}{_OLD})? [y/N] ").lower() in ("y", "yes")
    return _ask(f"Write this to {path}? [Y/n] ").lower() in ("", "y", "yes")


def _write(path: Path, text: str) -> None:
    """Whole or not at all, for its owner only; what was there stays as `.old`. Raises ConfigError, HostError."""
    disk.make_dir(path.parent, mode=0o700)
    with disk.locked(path.with_name(f".{path.name}.lock")):
        trial = path.with_name(f".{path.name}.{os.getpid()}.trial")
        try:
            disk.write_atomic(trial, text.encode("utf-8"), _MODE)
            config.load_file(trial, must_exist=True)  # the reader of every command has the last word
        finally:
            trial.unlink(missing_ok=True)
        if path.exists():
            disk.write_atomic(path.with_name(path.name + _OLD), path.read_bytes(), _MODE)
        disk.write_atomic(path, text.encode("utf-8"), _MODE)
