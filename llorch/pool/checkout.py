"""`git pull|status|sync|build`: the source checkout of this host (`repo=` of the pool's profile, or LLORCH_REPO)."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from llorch.base.errors import HostError, NotFound
from llorch.base.home import find_checkout
from llorch.host import commands
from llorch.host.commands import Shown
from llorch.pool import output
from llorch.pool.output import print_json
from llorch.pool.terminal import Terminal

INSTALLER = "install.sh"


def find() -> Path:
    """The checkout. Raises NotFound, with the hint, when none is configured or it is not one."""
    folder = find_checkout(os.environ)
    if not (folder / ".git").exists():
        raise NotFound(f"{folder} is not a git checkout: clone llorch there, or name another folder")
    return folder


def shown(arguments: argparse.Namespace) -> Shown:
    """Where programs print: with --json stdout is ours alone."""
    return Shown.STDERR if arguments.json else Shown.BOTH


def pull(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Fast-forward to the upstream branch. JSON: {checkout, before, after}."""
    folder = find()
    before = _commit(folder)
    code = commands.run(["git", "pull", "--ff-only", "--recurse-submodules"], folder, shown(arguments))
    return _moved(folder, before, code, arguments)


def status(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """JSON: {checkout, commit, branch, upstream, ahead, behind, changed: [path]}; null for what there is not."""
    folder = find()
    if not arguments.json:
        print(f"{folder} at {_commit(folder)[:12] or 'no commit'}", flush=True)
        return commands.run(["git", "status", "--short", "--branch"], folder)
    print_json(_facts(folder))
    return 0


def _facts(folder: Path) -> dict[str, Any]:
    upstream = _line(folder, "rev-parse", "--abbrev-ref", "--symbolic-full-name", "@{upstream}")
    counts = _line(folder, "rev-list", "--left-right", "--count", "HEAD...@{upstream}").split() if upstream else []
    return {
        "checkout": str(folder),
        "commit": _commit(folder) or None,
        "branch": _line(folder, "symbolic-ref", "--short", "HEAD") or None,
        "upstream": upstream or None,
        "ahead": int(counts[0]) if len(counts) == 2 else None,
        "behind": int(counts[1]) if len(counts) == 2 else None,
        "changed": _changed(folder),
    }


def sync_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="do not ask")
    parser.epilog = "Changes and commits that are only here are lost; untracked and ignored files stay."


def sync(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Fetch, and make the checkout what its upstream branch is (a hard reset). JSON: {checkout, before, after}."""
    folder = find()
    before = _commit(folder)
    code = commands.run(["git", "fetch"], folder, shown(arguments))
    if code != 0:
        return code
    facts = _facts(folder)
    if facts["upstream"] is None:
        raise HostError(f"{folder} follows no upstream branch: git branch --set-upstream-to=origin/BRANCH")
    lost = f"{len(facts['changed'])} changed files and {facts['ahead']} commits of its own would be lost"
    if not arguments.force and not output.confirmed(f"Reset {folder} to {facts['upstream']}? {lost}.", "--force"):
        return 1
    for argv in (
        ["git", "reset", "--hard", "@{upstream}"],
        ["git", "submodule", "update", "--init", "--recursive", "--force"],
    ):
        code = code or commands.run(argv, folder, shown(arguments))
    return _moved(folder, before, code, arguments)


def build_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--release", action="store_true", help="compress as well as possible: minutes longer")


def build(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Update the submodules and run install.sh. JSON: {checkout, exit_code}."""
    folder = find()
    installer = installer_of(folder)
    code = commands.run(["git", "submodule", "update", "--init", "--recursive"], folder, shown(arguments))
    if code == 0:
        flags = ["--release"] if arguments.release else []
        code = commands.run([str(installer), *flags], folder, shown(arguments))
    if arguments.json:
        print_json({"checkout": str(folder), "exit_code": code})
    return code


def installer_of(folder: Path) -> Path:
    """The checkout's install.sh. Raises NotFound."""
    path = folder / INSTALLER
    if not path.is_file():
        raise NotFound(f"{folder} has no {INSTALLER}: is it a checkout of llorch?")
    return path


def _moved(folder: Path, before: str, code: int, arguments: argparse.Namespace) -> int:
    after = _commit(folder)
    if arguments.json:
        print_json({"checkout": str(folder), "before": before, "after": after, "exit_code": code})
    elif code == 0:
        what = "is at" if before == after else f"went from {before[:12] or 'nothing'} to"
        print(f"{folder} {what} {after[:12]}")
    return code


def _commit(folder: Path) -> str:
    return _line(folder, "rev-parse", "--verify", "HEAD")


def _line(folder: Path, *words: str) -> str:
    """What git says to a question; "" when it has no answer."""
    said = commands.ask(["git", *words], folder)
    return said.out.strip() if said.code == 0 else ""


def _changed(folder: Path) -> list[str]:
    """Paths of tracked files that differ from the commit."""
    said = commands.ask(["git", "status", "--porcelain", "-z", "--untracked-files=no", "--no-renames"], folder)
    if said.code != 0:
        raise HostError(f"git does not take {folder} for a checkout: {' '.join(said.err.split())}")
    return [row[3:] for row in said.out.split("\0") if row]
