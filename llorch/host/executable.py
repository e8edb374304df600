"""The frozen file as a container: list what its package holds, read an entry, write the one-folder form of it.

Layout (PyInstaller's CArchive): bootloader | entries … | table of contents | cookie. The bootloader extracts binaries,
data and links; entries of kind `a` it ignores, and those are our payloads. The cookie is found from the end of the
file. Kind `a` under `later/` are libraries that belong to the one-folder form, but need not be unpacked at each start
of the onefile. This module knows nothing of caches or of what a payload is for.
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from llorch.base.errors import HostError

COOKIE_MAGIC = b"MEI\014\013\012\013\016"
_COOKIE = struct.Struct("!8sIIII64s")  # magic, package size, table offset, table size, python version, python library
_ENTRY = struct.Struct("!IIIIBc")  # row size, offset, stored size, size, is compressed, kind; then the name
_TAIL_BYTES = 65536
_COPY_BYTES = 1 << 20
_FOLDER = "_internal"
_EXTRACTED = ("b", "x", "n")  # binary, data, symbolic link
PAYLOAD = "a"
LATER = "later/"


class Payloads(Enum):
    """What the one-folder form does with the embedded payloads."""

    KEEP = "keep"
    LEAVE_OUT = "leave out"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry; `offset` counts from the start of the file."""

    name: str
    offset: int
    stored_bytes: int
    size_bytes: int
    is_compressed: bool
    kind: str

    @property
    def unpacked_name(self) -> str | None:
        """Where the one-folder form has it under `_internal`, None if it stays in the package."""
        if self.kind == PAYLOAD and self.name.startswith(LATER):
            return self.name.removeprefix(LATER)
        return self.name if self.kind in _EXTRACTED else None

    @property
    def is_payload(self) -> bool:
        """Is it data that neither form unpacks by itself?"""
        return self.kind == PAYLOAD and not self.name.startswith(LATER)


@dataclass(frozen=True, slots=True)
class Package:
    """The package of one executable."""

    path: Path
    entries: tuple[Entry, ...]
    python_version: int
    python_library: bytes

    @property
    def size_bytes(self) -> int:
        """Bytes of the one-folder form without payloads."""
        return sum(entry.size_bytes for entry in self.entries if not entry.is_payload) + _COPY_BYTES

    def payload(self, name: str) -> Entry | None:
        """The payload entry called `name`, if this executable carries it."""
        return next((entry for entry in self.entries if entry.name == name and entry.is_payload), None)


def running_file() -> Path:
    """This program's own bytes: the inode that runs, also after an upgrade has replaced its path."""
    own = Path("/proc/self/exe")
    return own if own.exists() else Path(sys.executable)


def read_package(path: Path) -> Package:
    """Parse the package at the end of `path`; HostError if there is none or it cannot be read."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            tail = file.read()
            found = tail.rfind(COOKIE_MAGIC)
            if found < 0:
                raise HostError(f"{path} is not a complete llorch file: copy it again")
            fields = _COOKIE.unpack_from(tail, found)
            start = size - len(tail) + found + _COOKIE.size - fields[1]
            file.seek(start + fields[2])
            table = file.read(fields[3])
    except (OSError, struct.error) as error:
        raise HostError(f"cannot read {path}: {error}") from error
    return Package(path, tuple(_parse_table(table, start)), fields[4], fields[5])


def read_entry(package: Package, name: str) -> bytes | None:
    """The unpacked bytes of the entry called `name`, None when there is none; for small ones."""
    entry = next((entry for entry in package.entries if entry.name == name), None)
    if entry is None:
        return None
    with open(package.path, "rb") as source:
        return _read(source, entry)


def _parse_table(table: bytes, start: int) -> list[Entry]:
    entries = []
    position = 0
    while position < len(table):
        row, offset, stored, size, compressed, kind = _ENTRY.unpack_from(table, position)
        name = table[position + _ENTRY.size : position + row].rstrip(b"\0").decode()
        entries.append(Entry(name, start + offset, stored, size, bool(compressed), kind.decode()))
        position += row
    return entries


def write_one_folder(package: Package, folder: Path, payloads: Payloads) -> Path:
    """Lay `package` out in the existing directory `folder` as a one-folder program; its executable.

    The bootloader takes a package without extractable entries for a one-folder program and looks in `_internal`.
    """
    with open(package.path, "rb") as source:
        kept = []
        for entry in package.entries:
            if (name := entry.unpacked_name) is not None:
                _extract(source, entry, folder / _FOLDER / name)
            elif payloads is Payloads.KEEP or not entry.is_payload:
                kept.append(entry)
        program = folder / "llorch"
        with open(program, "wb") as out:
            out.write(_bootloader(source, package))
            _write_package(source, out, package, kept)
    program.chmod(0o755)
    return program


def _extract(source: BinaryIO, entry: Entry, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = _read(source, entry)
    if entry.kind == "n":
        path.symlink_to(data.rstrip(b"\0").decode())
        return
    path.write_bytes(data)
    path.chmod(0o755 if ".so" in path.name else 0o644)


def _read(source: BinaryIO, entry: Entry) -> bytes:
    source.seek(entry.offset)
    data = source.read(entry.stored_bytes)
    return zlib.decompress(data) if entry.is_compressed else data


def _bootloader(source: BinaryIO, package: Package) -> bytes:
    """The ELF image before the package, its section table (which lay behind the package) struck from the header."""
    source.seek(0)
    image = bytearray(source.read(min(entry.offset for entry in package.entries)))
    if image[:5] != b"\x7fELF\x02":
        raise HostError("the one-folder form can be made from 64-bit ELF files only")
    image[40:48] = bytes(8)  # e_shoff
    image[58:64] = bytes(6)  # e_shentsize, e_shnum, e_shstrndx
    return bytes(image)


def _write_package(source: BinaryIO, out: BinaryIO, package: Package, kept: list[Entry]) -> None:
    base = out.tell()
    moved = []
    for entry in kept:
        moved.append(replace(entry, offset=out.tell() - base))
        source.seek(entry.offset)
        _copy(source, out, entry.stored_bytes)
    table = b"".join(_row(entry) for entry in moved)
    position = out.tell() - base
    size = position + len(table) + _COOKIE.size
    fields = (COOKIE_MAGIC, size, position, len(table), package.python_version, package.python_library)
    out.write(table + _COOKIE.pack(*fields))


def _copy(source: BinaryIO, out: BinaryIO, size_bytes: int) -> None:
    while size_bytes > 0:
        chunk = source.read(min(size_bytes, _COPY_BYTES))
        if not chunk:
            raise HostError("the llorch file is cut short: copy it again")
        out.write(chunk)
        size_bytes -= len(chunk)


def _row(entry: Entry) -> bytes:
    name = entry.name.encode() + b"\0"
    name += bytes(-(_ENTRY.size + len(name)) % 16)  # the bootloader reads rows at multiples of 16
    sizes = (entry.stored_bytes, entry.size_bytes, entry.is_compressed, entry.kind.encode())
    return _ENTRY.pack(_ENTRY.size + len(name), entry.offset, *sizes) + name
