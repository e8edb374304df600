"""A program that can be copied to a host: which platform it runs on, what it needs there, and what identifies it.

It is the one file, a script that behaves like it, or the files of a one-folder copy when that is all there is.
"""

from __future__ import annotations

import functools
import hashlib
import json
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import llorch
from llorch.base.errors import HostError
from llorch.host import executable, runtime

ORIGIN_SHA256 = "origin.sha256"  # in an installed folder: the hash of the file that it was made from
Glibc = tuple[int, int]

_ELF_MACHINES = {62: "x86_64", 183: "aarch64"}
_MACH_O = 0xFEEDFACF
_MACH_O_MACHINES = {0x01000007: "x86_64", 0x0100000C: "aarch64"}
_SAME_MACHINE = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system and a processor family, as in `dist/<os>-<machine>`."""

    os: str
    machine: str

    def __str__(self) -> str:
        return f"{self.os}-{self.machine}"


@dataclass(frozen=True, slots=True)
class Part:
    """One file to copy: its place below the program's folder, where it is here, its hash, and whether it is run."""

    name: str
    path: Path
    size_bytes: int
    sha256: str
    is_executable: bool


@dataclass(frozen=True, slots=True)
class Program:
    """`sha256` identifies the build; `platform` None runs anywhere; `glibc` None is unknown. The first part is run."""

    path: Path
    parts: tuple[Part, ...]
    sha256: str
    platform: Platform | None
    glibc: Glibc | None
    build_id: str | None

    @property
    def size_bytes(self) -> int:
        """Bytes to copy."""
        return sum(part.size_bytes for part in self.parts)


def platform_of(system: str, machine: str) -> Platform:
    """The platform that `uname -s` and `uname -m` name."""
    machine = machine.lower()
    return Platform(system.lower(), _SAME_MACHINE.get(machine, machine))


def choose(wanted: Platform, binary: Path | None) -> Program:
    """What to copy to a host of platform `wanted`: `--binary`, else ourselves, else `dist/<os>-<machine>/llorch`.

    Raises HostError that says how to get one.
    """
    if binary is not None:
        platform = platform_in(binary)
        if platform not in (None, wanted):
            raise HostError(f"{binary} is for {platform}, and the host is {wanted}")
        return load(binary)
    if runtime.is_frozen() and (own := _running()).platform == wanted:
        return own
    built = _beside() / "dist" / str(wanted) / "llorch"
    if built.is_file():
        return load(built)
    if runtime.is_frozen():
        raise HostError(
            f"this program does not run on {wanted}: build one there with ./install.sh, and name it with "
            f"--binary FILE or put it at {built}"
        )
    raise HostError(
        "running from sources, there is no file to copy: build it with ./install.sh and run build/out/llorch, "
        f"or name one with --binary FILE (or put it at {built})"
    )


def _beside() -> Path:
    """The folder that holds `dist`: the program's own, or the checkout."""
    return Path(sys.executable).parent if runtime.is_frozen() else Path(llorch.__file__).parents[1]


@functools.cache
def load(path: Path) -> Program:
    """The program in one file. Raises HostError when it is none, or a damaged one."""
    platform = platform_in(path)
    size = path.stat().st_size
    sha256 = sha256_of(path)
    facts = {} if platform is None else _build_facts(path)
    part = Part("llorch", path, size, sha256, is_executable=True)
    return Program(path, (part,), sha256, platform, _glibc(facts.get("glibc")), _text(facts.get("build_id")))


def sha256_of(path: Path) -> str:
    """The hash as 64 hex digits. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def platform_in(path: Path) -> Platform | None:
    """What the first bytes of the file say; None for a script. Raises HostError for anything else."""
    try:
        with open(path, "rb") as file:
            head = file.read(32)
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from error
    if head.startswith(b"#!"):
        return None
    if head.startswith(b"\x7fELF\x02\x01") and len(head) >= 20:
        code = struct.unpack_from("<H", head, 18)[0]
        return Platform("linux", _ELF_MACHINES.get(code, f"machine {code}"))
    if len(head) >= 8 and struct.unpack_from("<I", head)[0] == _MACH_O:
        code = struct.unpack_from("<I", head, 4)[0]
        return Platform("darwin", _MACH_O_MACHINES.get(code, f"machine {code}"))
    raise HostError(f"{path} is not a program that a host could run")


def _build_facts(path: Path) -> dict[str, object]:
    """What the build wrote down, from the package of the file."""
    package = executable.read_package(path)
    data = executable.read_entry(package, runtime.BUILD_FILE)
    value = {} if data is None else json.loads(data)
    return value if isinstance(value, dict) else {}


def _running() -> Program:
    """Ourselves: the one file, or the folder when this is an installed copy."""
    if not runtime.is_one_folder():
        return load(executable.running_file())
    folder = runtime.one_folder_program().parent
    origin = folder / runtime.ORIGIN_FILE
    if origin.is_file():  # the cached copy of a file, without its payloads
        return load(Path(origin.read_text()))
    return _load_folder(folder)


@functools.cache
def _load_folder(folder: Path) -> Program:
    parts = []
    for path in [folder / "llorch", *sorted((folder / "_internal").rglob("*"))]:
        if path.is_file():
            facts = path.stat()
            name = str(path.relative_to(folder))
            parts.append(Part(name, path, facts.st_size, sha256_of(path), bool(facts.st_mode & 0o100)))
    platform = platform_in(parts[0].path)
    try:
        sha256 = (folder / ORIGIN_SHA256).read_text().strip()
    except FileNotFoundError:
        sha256 = parts[0].sha256
    facts = json.loads((folder / "_internal" / runtime.BUILD_FILE).read_bytes())
    return Program(folder, tuple(parts), sha256, platform, _glibc(facts.get("glibc")), _text(facts.get("build_id")))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _glibc(value: object) -> Glibc | None:
    """`"2.35"` as numbers."""
    major, _, minor = str(value).partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None
