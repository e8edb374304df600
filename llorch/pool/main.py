"""`llorch-pool`: the table of its commands, and the one place where words become a call.

Start-up is a hot path (every `llorch pool … --host` waits for it): only the parser of the command typed is built, and
only its module is imported.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llorch.base.config import did_you_mean
from llorch.base.errors import UsageError
from llorch.pool import terminal


@dataclass(frozen=True, slots=True)
class Leaf:
    """One command: `module:function` that runs it (`FUNCTION_arguments` beside it declares its arguments), its help."""

    target: str
    help: str


LEAVES: dict[tuple[str, ...], Leaf] = {
    ("models", "catalog"): Leaf("llorch.pool.models:catalog", "show every known model"),
    ("models", "list"): Leaf("llorch.pool.models:list_downloaded", "show the downloaded models"),
    ("models", "download"): Leaf("llorch.pool.download:download", "download a model, or go on with a download"),
    ("models", "register"): Leaf("llorch.pool.models:register", "add a model to the catalog, or change its entry"),
    ("models", "unregister"): Leaf("llorch.pool.models:unregister", "remove a model from the catalog, keep its files"),
    ("models", "info"): Leaf("llorch.pool.models:info", "show everything about one model"),
    ("models", "verify"): Leaf("llorch.pool.model_files:verify", "check a model's files against their checksums"),
    ("models", "import"): Leaf("llorch.pool.model_files:import_model", "add a model from a directory on this host"),
    ("models", "delete"): Leaf("llorch.pool.model_files:delete", "delete a model's files, keep its catalog entry"),
    ("worker", "spawn"): Leaf("llorch.pool.spawn:spawn", "start a worker and wait until it is ready"),
    ("worker", "list"): Leaf("llorch.pool.workers:list_workers", "show this host's workers"),
    ("worker", "stop"): Leaf("llorch.pool.workers:stop", "stop one worker"),
    ("worker", "stop-all"): Leaf("llorch.pool.workers:stop_all", "stop every worker of this host"),
    ("worker", "cleanup"): Leaf("llorch.pool.workers:cleanup", "remove records of dead workers, report strays"),
    ("worker", "logs"): Leaf("llorch.pool.logs:logs", "show a worker's log"),
    ("status",): Leaf("llorch.pool.status:status", "show devices, memory, disk, models and workers of this host"),
    ("backends",): Leaf("llorch.pool.status:backends", "show which backends work here, and why others do not"),
}
GROUPS = {"models": "the models of this host", "worker": "the workers of this host"}
ALIASES = {"model": "models", "workers": "worker"}
NOT_YET = ("git", "test", "dev", "doctor")


def main(argv: list[str], *, prog: str) -> int:
    """Run one command; the exit code. Raises LlorchError for what the operator should read."""
    screen = terminal.look(os.environ, sys.stdout, sys.stderr)
    terminal.prepare_streams(screen)
    words = [ALIASES.get(argv[0], argv[0]), *argv[1:]] if argv else []
    name = _leaf_name(words, prog)
    if name is None:
        return 0
    leaf = LEAVES[name]
    parser = argparse.ArgumentParser(prog=" ".join((prog, *name)), description=_sentence(leaf.help), allow_abbrev=False)
    run = _fill(parser, leaf)
    arguments = parser.parse_args(words[len(name) :])
    return run(arguments, screen)


def _leaf_name(words: Sequence[str], prog: str) -> tuple[str, ...] | None:
    """The command that `words` begin with; None when help was asked for and printed. Raises UsageError."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text(prog))
        return None
    first = words[0]
    if (first,) in LEAVES:
        return (first,)
    if first in NOT_YET:
        raise UsageError(f"'{first}' is not there yet in this version")
    if first not in GROUPS:
        known = [*GROUPS, *(name[0] for name in LEAVES if len(name) == 1)]
        raise UsageError(f"unknown command '{first}'{did_you_mean(first, known)}; commands: {', '.join(known)}")
    if len(words) == 1 or words[1] in ("-h", "--help", "help"):
        print(help_text(prog, first))
        return None
    if (first, words[1]) not in LEAVES:
        known = [name[1] for name in LEAVES if name[0] == first]
        hint = did_you_mean(words[1], known)
        raise UsageError(f"unknown command '{first} {words[1]}'{hint}; commands of {first}: {', '.join(known)}")
    return (first, words[1])


def help_text(prog: str, group: str | None = None) -> str:
    """The list of commands, of all or of one group."""
    rows = [(" ".join(name), leaf.help) for name, leaf in LEAVES.items() if group in (None, name[0])]
    width = max(len(words) for words, _ in rows)
    what = GROUPS[group] if group else "this host's models and workers"
    lines = [f"usage: {prog} {group or 'COMMAND'} [ARGUMENT ...]", "", f"{what[0].upper()}{what[1:]}.", "", "commands:"]
    lines += [f"  {words:<{width}}  {text}" for words, text in rows]
    lines += ["", f"{prog} COMMAND --help explains one. Every command takes --json."]
    if group is None:
        lines += ["Another host: llorch pool COMMAND --host HOST."]
    return "\n".join(lines)


def parser(prog: str = "llorch-pool") -> argparse.ArgumentParser:
    """The parser of all commands at once, for manual pages."""
    top = argparse.ArgumentParser(prog=prog, description="This host's models and workers.", allow_abbrev=False)
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    groups = {
        name: commands.add_parser(name, help=text, description=_sentence(text)).add_subparsers(required=True)
        for name, text in GROUPS.items()
    }
    for name, leaf in LEAVES.items():
        place = groups[name[0]] if len(name) == 2 else commands
        _fill(place.add_parser(name[-1], help=leaf.help, description=_sentence(leaf.help)), leaf)
    return top


def _fill(parser: argparse.ArgumentParser, leaf: Leaf) -> Callable[[argparse.Namespace, terminal.Terminal], int]:
    """Add the arguments of `leaf`; the function that runs it."""
    module_name, _, function = leaf.target.partition(":")
    module = __import__(module_name, fromlist=[function])
    declare = getattr(module, f"{function}_arguments", None)
    if declare is not None:
        declare(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    run: Callable[[argparse.Namespace, terminal.Terminal], int] = getattr(module, function)
    return run


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
