"""Finding processes by what they carry in their environment, and by what they are: ours are known without a record."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_COMMAND_BYTES_MAX = 200
# The frozen file and its links, or the sources under any Python.
_OURS = re.compile(r"(\S*/)?(llorch[\w.-]*|orchestratord|rbees[\w-]*)( |$)|\S*python[\d.]* (-\w+ )*-m llorch( |$)")


@dataclass(frozen=True, slots=True)
class Carrier:
    """A live process, its command line (shortened, control characters removed) and the pids above it.

    `start_time` is as `host.process.start_time` tells it.
    """

    pid: int
    command: str
    ancestors: tuple[int, ...]
    start_time: float


@dataclass(frozen=True, slots=True)
class _Seen:
    pid: int
    parent: int
    start_time: float
    environment: bytes
    command: str


def find_by_environment(variable: str, value: str) -> list[Carrier]:
    """The live processes of this user that were started with `variable=value`, by pid; only readable ones are seen."""
    wanted = f"{variable}={value}".encode()
    seen = list(_processes(variable))
    parents = {one.pid: one.parent for one in seen}
    return [_carrier(one, parents) for one in seen if wanted in one.environment.split(b"\0")]


def find_llorch(variable: str, value: str) -> list[tuple[Carrier, str]]:
    """Every other process that is llorch's by its command line but does not carry `variable=value`.

    With each the service that runs it, as LLORCH_SERVICE in its environment says; empty when none does. Neither
    this process nor those above it are among them.
    """
    wanted = f"{variable}={value}".encode()
    seen = list(_processes(variable))
    parents = {one.pid: one.parent for one in seen}
    mine = {os.getpid(), *_above(os.getpid(), parents)}
    found = []
    for one in seen:
        pairs = one.environment.split(b"\0")
        if one.pid not in mine and wanted not in pairs and _OURS.match(one.command):
            service = next((p.partition(b"=")[2] for p in pairs if p.startswith(b"LLORCH_SERVICE=")), b"")
            found.append((_carrier(one, parents), service.decode("utf-8", "replace")))
    return found


def _carrier(one: _Seen, parents: dict[int, int]) -> Carrier:
    return Carrier(one.pid, one.command, tuple(_above(one.pid, parents)), one.start_time)


def _processes(variable: str) -> list[_Seen]:
    rows = _linux() if sys.platform.startswith("linux") else _elsewhere(variable)
    return sorted(rows, key=lambda one: one.pid)


def _above(pid: int, parents: dict[int, int]) -> Iterator[int]:
    seen = {pid}
    while (pid := parents.get(pid, 0)) > 1 and pid not in seen:
        seen.add(pid)
        yield pid


def _linux() -> Iterator[_Seen]:
    ticks = os.sysconf("SC_CLK_TCK")
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
            parent, started = int(fields[1]), int(fields[19]) / ticks
            command = (folder / "cmdline").read_bytes()[:_COMMAND_BYTES_MAX]
            # A zombie has an empty environment, so that it carries nothing.
            environment = (folder / "environ").read_bytes()
        except PermissionError:
            environment = b""  # another user's
        except (OSError, ValueError, IndexError):
            continue
        yield _Seen(int(folder.name), parent, started, environment, _printable(command))


def _printable(command: bytes) -> str:
    text = command.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "?" for character in text)


def _elsewhere(variable: str) -> Iterator[_Seen]:
    import psutil

    for found in psutil.process_iter():
        try:
            carried = found.environ()
            pairs = [f"{name}={carried.get(name, '')}" for name in (variable, "LLORCH_SERVICE")]
            command = _printable(" ".join(found.cmdline()).encode()[:_COMMAND_BYTES_MAX])
            yield _Seen(found.pid, found.ppid(), found.create_time(), "\0".join(pairs).encode(), command)
        except psutil.Error:
            continue
