"""`llorch-pool`: the table of its commands, and the one place where words become a call.

Start-up is a hot path (every `llorch pool … --host` waits for it): only the parser of the command typed is built, and
only its module is imported.
"""

from __future__ import annotations

import argparse
import os
import sys

from llorch.base.commands import CommandTable, Leaf
from llorch.pool import terminal

LEAVES: dict[tuple[str, ...], Leaf] = {
    ("models", "catalog"): Leaf("llorch.pool.models:catalog", "show every known model"),
    ("models", "list"): Leaf("llorch.pool.models:list_downloaded", "show the downloaded models"),
    ("models", "download"): Leaf("llorch.pool.download:download", "download a model, or go on with a download"),
    ("models", "register"): Leaf("llorch.pool.models:register", "add a model to the catalog, or change its entry"),
    ("models", "unregister"): Leaf("llorch.pool.models:unregister", "remove a model from the catalog, keep its files"),
    ("models", "alias"): Leaf("llorch.pool.models:alias", "give a model another name, or list such names"),
    ("models", "info"): Leaf("llorch.pool.info:info", "show everything about one model"),
    ("models", "verify"): Leaf("llorch.pool.model_files:verify", "check a model's files against their checksums"),
    ("models", "import"): Leaf("llorch.pool.importing:import_model", "add a model from files on this host"),
    ("models", "delete"): Leaf("llorch.pool.model_files:delete", "delete a model's files, keep its catalog entry"),
    ("models", "serve"): Leaf("llorch.pool.serving:serve", "serve a model's files to another pool, for one copy"),
    ("models", "fetch"): Leaf("llorch.pool.fetching:fetch", "take a model's files from a pool that serves them"),
    ("worker", "spawn"): Leaf("llorch.pool.spawn:spawn", "start a worker and wait until it is ready"),
    ("worker", "list"): Leaf("llorch.pool.workers:list_workers", "show this host's workers"),
    ("worker", "stop"): Leaf("llorch.pool.workers:stop", "stop one worker"),
    ("worker", "stop-all"): Leaf("llorch.pool.workers:stop_all", "stop every worker of this host"),
    ("worker", "restart"): Leaf("llorch.pool.restart:restart", "drain a worker and start the same again"),
    ("worker", "cleanup"): Leaf("llorch.pool.workers:cleanup", "remove records of dead workers, report strays"),
    ("worker", "logs"): Leaf("llorch.pool.logs:logs", "show a worker's log"),
    ("git", "pull"): Leaf("llorch.pool.checkout:pull", "fast-forward the source checkout"),
    ("git", "status"): Leaf("llorch.pool.checkout:status", "show where the source checkout is"),
    ("git", "sync"): Leaf("llorch.pool.checkout:sync", "make the source checkout what its upstream branch is"),
    ("git", "build"): Leaf("llorch.pool.checkout:build", "update submodules, run install.sh"),
    ("test",): Leaf("llorch.pool.development:test", "run the checkout's tests, or the built-in smoke test"),
    ("dev", "setup"): Leaf("llorch.pool.development:setup", "install what work on llorch itself needs"),
    ("dev", "doctor"): Leaf("llorch.pool.development:doctor", "show what work on llorch itself needs"),
    ("status",): Leaf("llorch.pool.status:status", "show devices, memory, disk, models and workers of this host"),
    ("doctor",): Leaf("llorch.pool.doctor:doctor", "show what is wrong on this host, with what mends it"),
    ("cleanup",): Leaf("llorch.pool.doctor:cleanup", "end orphans of this host, remove what belongs to nobody"),
    ("backends",): Leaf("llorch.pool.status:backends", "show which backends work here, and why others do not"),
}


def _declare_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


TABLE = CommandTable(
    about="this host's models and workers",
    leaves=LEAVES,
    groups={
        "models": "the models of this host",
        "worker": "the workers of this host",
        "git": "the source checkout of this host (LLORCH_REPO, or repo= of the pool's profile)",
        "dev": "what work on llorch itself needs on this host",
    },
    aliases={"model": "models", "workers": "worker"},
    footer="Every command takes --json. Another host: llorch pool COMMAND --host HOST.",
    declare_everywhere=_declare_json,
)


def main(argv: list[str], *, prog: str) -> int:
    """Run one command; the exit code. Raises LlorchError for what the operator should read."""
    screen = terminal.look(os.environ, sys.stdout, sys.stderr)
    terminal.prepare_streams(screen)
    parsed = TABLE.parse(argv, prog)
    return 0 if parsed is None else parsed.run(parsed.arguments, screen)


def parser(prog: str = "llorch-pool") -> argparse.ArgumentParser:
    """The parser of all commands at once, for manual pages."""
    return TABLE.parser(prog)
