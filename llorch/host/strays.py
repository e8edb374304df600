"""Finding processes by what they carry in their environment: ours are known without any record of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_COMMAND_BYTES_MAX = 200


@dataclass(frozen=True, slots=True)
class Carrier:
    """A live process, its command line (shortened, control characters removed) and the pids above it."""

    pid: int
    command: str
    ancestors: tuple[int, ...]


def find_by_environment(variable: str, value: str) -> list[Carrier]:
    """The live processes of this user that were started with `variable=value`, by pid; only readable ones are seen."""
    pairs = _linux() if sys.platform.startswith("linux") else _elsewhere(variable)
    parents: dict[int, int] = {}
    carrying: list[tuple[int, str]] = []
    wanted = f"{variable}={value}".encode()
    for pid, parent, environment, command in pairs:
        parents[pid] = parent
        if wanted in environment.split(b"\0"):
            carrying.append((pid, command))
    return [Carrier(pid, command, tuple(_above(pid, parents))) for pid, command in sorted(carrying)]


def _above(pid: int, parents: dict[int, int]) -> Iterator[int]:
    seen = {pid}
    while (pid := parents.get(pid, 0)) > 1 and pid not in seen:
        seen.add(pid)
        yield pid


def _linux() -> Iterator[tuple[int, int, bytes, str]]:
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
            parent = int(fields[1])
            # A zombie has an empty environment, so that it carries nothing.
            environment = (folder / "environ").read_bytes()
            command = (folder / "cmdline").read_bytes()[:_COMMAND_BYTES_MAX]
        except PermissionError:
            yield int(folder.name), parent, b"", ""
            continue
        except (OSError, ValueError, IndexError):
            continue
        yield int(folder.name), parent, environment, _printable(command)


def _printable(command: bytes) -> str:
    text = command.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "?" for character in text)


def _elsewhere(variable: str) -> Iterator[tuple[int, int, bytes, str]]:
    import psutil

    for found in psutil.process_iter():
        try:
            value = found.environ().get(variable, "")
            command = " ".join(found.cmdline()).encode()[:_COMMAND_BYTES_MAX]
            yield found.pid, found.ppid(), f"{variable}={value}".encode(), _printable(command)
        except psutil.Error:
            continue
