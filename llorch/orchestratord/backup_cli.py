"""`orchestratord backup FILE` and `orchestratord restore FILE`: the state directory as one file, and back."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Mapping
from itertools import chain, count
from pathlib import Path

from llorch.base import config
from llorch.base.commands import Parser
from llorch.base.errors import HostError, UsageError
from llorch.orchestratord import statedir
from llorch.store import backup as backups

SECRET = (
    "The file holds the prompts of live jobs, all outputs that are still kept, the hashes of client keys and the "
    "worker token: keep it as private as the state directory."
)
STAGING = ".restoring"
ASIDE = "before-restore-"


def backup_parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backup`; manual pages are made of it, too."""
    about = f"Write all of an orchestratord's state to one file, complete or not at all; it may run meanwhile. {SECRET}"
    parser = Parser(prog=prog, description=about, allow_abbrev=False)
    parser.add_argument("file", metavar="FILE", help="the tar to write; it must not be there yet")
    parser.add_argument("--state", metavar="DIR", help="the state directory of that orchestratord")
    return parser


def restore_parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `restore`."""
    about = "Put a backup into an empty state directory. Jobs that were live when it was made go on at the next start."
    parser = Parser(prog=prog, description=about, allow_abbrev=False)
    parser.add_argument("file", metavar="FILE", help="what 'orchestratord backup' wrote")
    parser.add_argument("--state", metavar="DIR", help="the state directory to fill")
    parser.add_argument(
        "--force", action="store_true", help=f"set what is in the directory aside, in its folder {ASIDE}TIME"
    )
    return parser


def backup(argv: list[str], *, prog: str, env: Mapping[str, str]) -> int:
    """Write one; the exit code. Raises LlorchError with one clear line."""
    args = backup_parser(prog).parse_args(argv)
    made = backups.make(config.state_dir(env, args.state).absolute(), Path(args.file).absolute())
    sys.stdout.write(f"{args.file}: {_told(made)}, {made.size_bytes} bytes\n")
    return 0


def restore(argv: list[str], *, prog: str, env: Mapping[str, str]) -> int:
    """Put one back; the exit code. Raises LlorchError with one clear line."""
    args = restore_parser(prog).parse_args(argv)
    state_dir = statedir.prepare(config.state_dir(env, args.state).absolute())
    lock = statedir.Lock(state_dir)
    try:
        _fill(state_dir, Path(args.file), force=args.force)
    finally:
        lock.release()
    return 0


def _fill(state_dir: Path, source: Path, *, force: bool) -> None:
    staging = state_dir / STAGING
    in_the_way = _content(state_dir)
    if in_the_way and not force:
        raise UsageError(
            f"the state directory {state_dir} is not empty: name another --state, or set its content aside by --force"
        )
    try:
        shutil.rmtree(staging, ignore_errors=True)
        found = backups.unpack(source, staging)
        if in_the_way:
            aside = _new_folder(state_dir)
            for path in in_the_way:
                path.rename(aside / path.name)
            sys.stdout.write(f"what was there is in {aside}\n")
        # The database last: with it the state is there.
        for path in sorted(staging.iterdir(), key=lambda path: path.name == backups.DATABASE):
            path.rename(state_dir / path.name)
    except OSError as error:
        raise HostError(f"the state directory {state_dir} cannot be filled: {error.strerror or error}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    sys.stdout.write(f"{state_dir}: {_told(found)}\n")


def _new_folder(state_dir: Path) -> Path:
    """For what is set aside; a second restore within one second gets another name."""
    names = (f"{ASIDE}{int(time.time())}{more}" for more in chain([""], (f"-{n}" for n in count(2))))
    folder = next(path for name in names if not (path := state_dir / name).exists())
    folder.mkdir(mode=0o700)
    return folder


def _content(state_dir: Path) -> list[Path]:
    """What a restore would replace."""
    ours = (statedir.LOCK_FILE, STAGING)
    return [path for path in state_dir.iterdir() if path.name not in ours and not path.name.startswith(ASIDE)]


def _told(contents: backups.Contents) -> str:
    return f"{contents.jobs} jobs ({contents.live_jobs} live), {contents.segments} segments"
