"""`orchestratord keys create NAME [--tenant T] | list | revoke NAME`: works on the state directory, daemon or not."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from llorch.base import clock, config
from llorch.base.errors import NotFound, UsageError
from llorch.base.ids import TENANT_NAME
from llorch.base.terminal import aligned
from llorch.orchestratord import statedir
from llorch.store import database
from llorch.store.client_keys import ClientKeys
from llorch.store.store import FILE_NAME


def main(argv: list[str], *, prog: str, env: Mapping[str, str]) -> int:
    """Run one key command; the exit code. Raises LlorchError with one clear line."""
    parser = argparse.ArgumentParser(prog=prog, description="Client keys of this orchestratord; only hashes are kept.")
    parser.add_argument("--state", metavar="DIR", help="the state directory of that orchestratord")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    create = commands.add_parser("create", help="make a key and print it, once")
    create.add_argument("name")
    create.add_argument("--tenant", metavar="T", help="whose jobs, quotas and usage it stands for (default: its name)")
    commands.add_parser("list", help="names, tenants, dates and states of all keys")
    commands.add_parser("revoke", help="shut a key out").add_argument("name")
    args = parser.parse_args(argv)
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
