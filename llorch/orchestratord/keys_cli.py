"""`orchestratord keys create NAME [--tenant T] | list | revoke NAME`: works on the state directory, daemon or not."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llorch.base import clock, config
from llorch.base.commands import Parser
from llorch.base.errors import NotFound, UsageError
from llorch.base.ids import TENANT_NAME
from llorch.base.terminal import aligned
from llorch.orchestratord import statedir
from llorch.store import database
from llorch.store.client_keys import ClientKeys
from llorch.store.store import FILE_NAME


def main(argv: list[str], *, prog: str, env: Mapping[str, str]) -> int:
    """Run one key command; the exit code. Raises LlorchError with one clear line."""
    args = parser(prog).parse_args(argv)
    state_dir = statedir.prepare(config.state_dir(env, args.state).absolute())
    keys = _open(state_dir)
    try:
        if args.command == "create":
            _create(keys, args.name, args.tenant or args.name)
        elif args.command == "revoke":
            if not keys.revoke(args.name, time.time()):
                raise NotFound(f"no live key is named '{args.name}'")
            sys.stdout.write(f"revoked {args.name}\n")
        else:
            _list(keys)
    finally:
        keys.close()
    return 0


def parser(prog: str) -> argparse.ArgumentParser:
    """Its command line; manual pages are made of it, too."""
    about = "Client keys of this orchestratord; only hashes are kept."
    made = Parser(prog=prog, description=about, allow_abbrev=False)
    _add_state(made, None)
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    create = _command(commands, "create", "make a key and print it, once")
    create.add_argument("name", metavar="NAME")
    create.add_argument("--tenant", metavar="T", help="whose jobs, quotas and usage it stands for (default: its name)")
    _command(commands, "list", "names, tenants, dates and states of all keys")
    _command(commands, "revoke", "shut a key out").add_argument("name", metavar="NAME")
    return made


def _command(commands: Any, name: str, about: str) -> argparse.ArgumentParser:
    """One of them; --state may stand after its word, too."""
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=f"{about[0].upper()}{about[1:]}.", allow_abbrev=False
    )
    _add_state(made, argparse.SUPPRESS)
    return made


def _add_state(parser: argparse.ArgumentParser, default: str | None) -> None:
    parser.add_argument("--state", metavar="DIR", default=default, help="the state directory of that orchestratord")


def _open(state_dir: Path) -> ClientKeys:
    """Only who holds the directory's lock may make, migrate or set aside a database: one that runs has it open."""
    path = state_dir / FILE_NAME
    if not database.is_current(path):
        lock = statedir.Lock(state_dir)
        try:
            database.open_writer(path).close()
        finally:
            lock.release()
    return ClientKeys(path)


def _create(keys: ClientKeys, name: str, tenant: str) -> None:
    from llorch.orchestratord.access import fingerprint, new_key

    for what, text in (("key's", name), ("tenant's", tenant)):
        if not TENANT_NAME.fullmatch(text):
            raise UsageError(f"a {what} name must match {TENANT_NAME.pattern}")
    key = new_key()
    if not keys.add(name, fingerprint(key), time.time(), tenant):
        raise UsageError(f"a key named '{name}' exists already, live or revoked")
    sys.stdout.write(key + "\n")
    if sys.stderr.isatty():
        sys.stderr.write("This is the only time that the key is shown.\n")


def _list(keys: ClientKeys) -> None:
    rows = [("NAME", "TENANT", "CREATED", "STATE")]
    for key in keys.all():
        state = "live" if key.revoked_at is None else f"revoked {clock.iso(key.revoked_at)}"
        rows.append((key.name, key.tenant, clock.iso(key.created_at), state))
    sys.stdout.write("".join(line + "\n" for line in aligned(rows)))
