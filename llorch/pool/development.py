"""`dev setup|doctor` and `test`: what somebody who works on llorch itself needs on this host."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from llorch.base.errors import HostError, NotFound
from llorch.host import commands, disk
from llorch.pool import checkout, output
from llorch.pool.output import print_json
from llorch.pool.progress import megabytes
from llorch.pool.terminal import Terminal

_BUILD_BYTES = 12 << 30  # the virtual environment, what freezing leaves, and the result
# A program, and the Debian packages that bring it.
_NEEDED = (
    ("git", ("git",)),
    ("python3.11", ("python3.11", "python3.11-venv", "libpython3.11")),
    ("g++", ("g++",)),
    ("objcopy", ("binutils",)),
    ("strip", ("binutils",)),
    ("sshd", ("openssh-server",)),
    ("ssh-keygen", ("openssh-client",)),
    ("curl", ("curl",)),
)
# Names of suites that people expect beside the folders of tests/.
_SUITES = {"integration": "e2e", "unit": "base"}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must be so, whether it is, and what to know about it."""

    name: str
    ok: bool
    detail: str


def missing_packages(is_there: Callable[[str], bool]) -> list[str]:
    """The Debian packages of the needed programs that are not there, each once."""
    return list(dict.fromkeys(name for program, names in _NEEDED if not is_there(program) for name in names))


def setup_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def setup(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Say what will be installed, ask, do it. JSON: {checkout, packages, exit_code}."""
    folder = checkout.find()
    installer = checkout.installer_of(folder)
    packages = missing_packages(commands.is_there)
    steps = [*_package_steps(packages), [str(installer), "dev"]]
    for step in steps:
        print(f"will run: {shlex.join(step)}", file=sys.stderr)
    print(f"(installer dev makes the virtual environment {folder / '.venv'} and nothing else)", file=sys.stderr)
    if not arguments.yes and not output.confirmed("Go on?", "-y"):
        return 1
    code = 0
    for step in steps:
        code = code or commands.run(step, folder, checkout.shown(arguments))
    if arguments.json:
        print_json({"checkout": str(folder), "packages": packages, "exit_code": code})
    return code


def _package_steps(packages: list[str]) -> list[list[str]]:
    """The commands that install system packages. Raises HostError where it is not known how."""
    if not packages:
        return []
    if not commands.is_there("apt-get"):
        raise HostError(f"install these with your system's own tools, then try again: {' '.join(packages)}")
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]  # no password can be typed through llorch
    return [[*as_root, "apt-get", "install", "-y", "--no-install-recommends", *packages]]


def doctor(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Exit 1 when something is missing. JSON: {checkout, ok, checks: [{name, ok, detail}]}."""
    folder = checkout.find()
    checks = _checks(folder)
    ok = all(check.ok for check in checks)
    if arguments.json:
        print_json({"checkout": str(folder), "ok": ok, "checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            print(f"{terminal.mark(check.ok):<4} {check.name:<14} {check.detail}")
        print("Everything is there" if ok else "Something is missing: llorch-pool dev setup")
    return 0 if ok else 1


def _checks(folder: Path) -> list[Check]:
    found = [
        Check(program, commands.is_there(program), f"package {', '.join(packages)}") for program, packages in _NEEDED
    ]
    free = disk.free_bytes(folder)
    venv = folder / ".venv"
    return [
        Check("checkout", (folder / checkout.INSTALLER).is_file(), str(folder)),
        *found,
        Check("disk", free >= _BUILD_BYTES, f"{megabytes(free)} free, {megabytes(_BUILD_BYTES)} wanted"),
        Check("environment", (venv / "bin" / "python").exists(), f"{venv} (made by install.sh dev)"),
    ]


def test_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", nargs="?", metavar="SUITE", help="a folder or file of tests/ (default: everything)")
    parser.epilog = "Without a checkout, and as suite 'smoke', a worker is spawned, asked, and stopped."


def test(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """The checkout's tests, or the built-in smoke test where there is none. JSON: {suite, exit_code} or smoke's."""
    if arguments.suite == "smoke":
        return _smoke(arguments, terminal)
    try:
        folder = checkout.find()
    except NotFound:
        if arguments.suite is not None:
            raise
        print("llorch-pool: no checkout is configured (LLORCH_REPO): the built-in smoke test runs", file=sys.stderr)
        return _smoke(arguments, terminal)
    installer = checkout.installer_of(folder)
    where = [] if arguments.suite is None else [_suite(folder, arguments.suite)]
    code = commands.run([str(installer), "test", *where], folder, checkout.shown(arguments))
    if arguments.json:
        print_json({"suite": arguments.suite, "exit_code": code})
    return code


def _suite(folder: Path, name: str) -> str:
    """The path of a suite below the checkout. Raises NotFound with what there is."""
    tests = (folder / "tests").resolve()
    for path in (tests / _SUITES.get(name, name), folder / name):
        found = path.resolve()
        if found.is_relative_to(tests) and found.exists():
            return str(found.relative_to(folder.resolve()))
    known = sorted(path.name for path in tests.iterdir() if path.is_dir()) if tests.is_dir() else []
    raise NotFound(f"no test suite '{name[:96]}' in {folder}; there are: smoke, {', '.join(known)}")


def _smoke(arguments: argparse.Namespace, terminal: Terminal) -> int:
    from llorch.pool import smoke

    return smoke.run(arguments, terminal)
