"""`orchestratord keys create NAME | list | revoke NAME`: works on the state directory, daemon or not."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from llorch.base import clock, config
from llorch.base.errors import NotFound, UsageError
from llorch.orchestratord import statedir
from llorch.store import database
from llorch.store.client_keys import ClientKeys
from llorch.store.store import FILE_NAME

KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def main(argv: list[str], *, prog: str, env: Mapping[str, str]) -> int:
    """Run one key command; the exit code. Raises LlorchError with one clear line."""
    parser = argparse.ArgumentParser(prog=prog, description="Client keys of this orchestratord; only hashes are kept.")
    parser.add_argument("--state", metavar="DIR", help="the state directory of that orchestratord")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("create", help="make a key and print it, once").add_argument("name")
    commands.add_parser("list", help="names, dates and states of all keys")
    commands.add_parser("revoke", help="shut a key out").add_argument("name")
    args = parser.parse_args(argv)
    state_dir = statedir.prepare(config.state_dir(env, args.state).absolute())
    keys = _open(state_dir)
    try:
        if args.command == "create":
            _create(keys, args.name)
        elif args.command == "revoke":
            if not keys.revoke(args.name, time.time()):
                raise NotFound(f"no live key is named '{args.name}'")
            sys.stdout.write(f"revoked {args.name}\n")
        else:
            _list(keys)
    finally:
        keys.close()
    return 0


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


def _create(keys: ClientKeys, name: str) -> None:
    from llorch.orchestratord.access import fingerprint, new_key

    if not KEY_NAME.fullmatch(name):
        raise UsageError(f"a key's name must match {KEY_NAME.pattern}")
    key = new_key()
    if not keys.add(name, fingerprint(key), time.time()):
        raise UsageError(f"a key named '{name}' exists already, live or revoked")
    sys.stdout.write(key + "\n")
    if sys.stderr.isatty():
        sys.stderr.write("This is the only time that the key is shown.\n")


def _list(keys: ClientKeys) -> None:
    shown = keys.all()
    width = max([len(key.name) for key in shown], default=4)
    sys.stdout.write(f"{'NAME':<{width}}  {'CREATED':<24}  STATE\n")
    for key in shown:
        state = "live" if key.revoked_at is None else f"revoked {clock.iso(key.revoked_at)}"
        sys.stdout.write(f"{key.name:<{width}}  {clock.iso(key.created_at)}  {state}\n")
