"""Which folders and files live processes run from or have mapped: nothing of those may be removed."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from llorch.host import process

_COMMAND_BYTES_MAX = 200
_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True)
class User:
    """A live process that uses some of the folders asked about; `runs_from` is the one that holds its program."""

    pid: int
    start_time: float
    command: str
    folders: frozenset[Path]
    runs_from: Path | None


def users(folders: Collection[Path]) -> list[User]:
    """The live processes that use any of `folders`, as far as this user may look."""
    wanted = {folder.resolve(): folder for folder in folders}
    found = []
    for pid, command, program, mapped in _linux() if sys.platform.startswith("linux") else _elsewhere():
        runs_from = _holding(program, wanted)
        used = {_holding(path, wanted) for path in mapped} | {runs_from}
        used.discard(None)
        started = process.start_time(pid) if used else None
        if started is not None:
            held = frozenset(folder for folder in used if folder is not None)
            found.append(User(pid, started, command, held, runs_from))
    return found


def _holding(path: str, wanted: dict[Path, Path]) -> Path | None:
    """Which of the wanted folders holds `path`."""
    place = Path(path.removesuffix(_DELETED))
    return next((wanted[part] for part in (place, *place.parents) if part in wanted), None)


def _linux() -> Iterator[tuple[int, str, str, set[str]]]:
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            program = str((folder / "exe").readlink())
            lines = (folder / "maps").read_text(errors="surrogateescape").splitlines()
            command = (folder / "cmdline").read_bytes()[:_COMMAND_BYTES_MAX]
        except OSError:
            continue  # it ended, is a kernel thread, or belongs to somebody else
        mapped = {fields[5] for line in lines if len(fields := line.split(None, 5)) == 6 and fields[5][0] == "/"}
        yield int(folder.name), _printable(command.replace(b"\0", b" ")), program, mapped


def _elsewhere() -> Iterator[tuple[int, str, str, set[str]]]:
    import psutil

    for found in psutil.process_iter():
        try:
            yield found.pid, _printable(" ".join(found.cmdline()).encode()[:_COMMAND_BYTES_MAX]), found.exe(), set()
        except (psutil.Error, OSError):
            continue


def _printable(command: bytes) -> str:
    text = command.decode("utf-8", "replace").strip()
    return "".join(character if character.isprintable() else "?" for character in text)
