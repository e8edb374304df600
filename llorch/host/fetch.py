"""Model files from a source (the hub, another pool): each one resumed, verified and moved in place.

Only safetensors, JSON, tokenizer.model and the chat template are ever fetched: nothing that would run outside of the
templates' sandbox.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from llorch.base.errors import HostError, Unreachable
from llorch.host import disk

TEMPLATE_FILE = "chat_template.jinja"  # where newer repositories keep what tokenizer_config.json held
RETRIES_MAX = 6  # in a row, without a single byte between them
_BACKOFF_S = 0.5
_BACKOFF_MAX_S = 8.0
_CHUNK_BYTES = 1 << 20
BUSY = (408, 429, 500, 502, 503, 504)  # statuses that pass


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a commit. `sha256` is known for large files, else `git_sha1` is the id of its git blob."""

    path: str
    size_bytes: int
    sha256: str
    git_sha1: str

    @property
    def key(self) -> str:
        """Names the content, so that a partial file is only ever continued with the same content."""
        return (self.sha256 or self.git_sha1)[:16]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files to fetch of `repo` at the commit `revision` (40 hex digits, "" when it has none).

    `licence` as the hub names it, "" when it does not say; `gated` whether it asks for consent, None when unknown.
    """

    repo: str
    revision: str
    files: tuple[RemoteFile, ...]
    licence: str = ""
    gated: bool | None = None

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


class Watcher(Protocol):
    """Who wants to see a download's progress."""

    def advance(self, done_bytes: int) -> None:
        """`done_bytes` of the current file are on disk."""

    def note(self, text: str) -> None:
        """Something worth a line, such as a broken connection that is resumed."""


class Interrupted(Exception):
    """The transfer broke, in a way that may pass."""


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of a file as they come; from the asked position on when `resumed`, else from its first byte."""

    resumed: bool
    chunks: Iterator[bytes]


class Source(Protocol):
    """Where files come from."""

    @property
    def name(self) -> str:
        """What messages call it."""

    def cached(self, file: RemoteFile) -> Path | None:
        """A whole copy of the file on this host that the source knows of."""

    def open(self, file: RemoteFile, from_bytes: int) -> AbstractContextManager[Body]:
        """The file from byte `from_bytes` on. Raises Interrupted (also while it is read) for what may pass."""


def is_wanted(path: str) -> bool:
    """Weights and JSON at the top of the repository, tokenizer.model and template; never pickled weights or code."""
    return "/" not in path and (path.endswith((".safetensors", ".json")) or path in ("tokenizer.model", TEMPLATE_FILE))


def select(files: Sequence[RemoteFile]) -> tuple[RemoteFile, ...]:
    """The wanted files; empty when there are no safetensors weights among them.

    A `consolidated*.safetensors` beside `model*.safetensors` is the same weights once more and is left out.
    """
    wanted = [file for file in files if is_wanted(file.path)]
    if any(file.path.startswith("model") and file.path.endswith(".safetensors") for file in wanted):
        wanted = [file for file in wanted if not file.path.startswith("consolidated")]
    if not any(file.path.endswith(".safetensors") for file in wanted):
        return ()
    return tuple(sorted(wanted, key=lambda file: (file.size_bytes, file.path)))


def partial_path(file: RemoteFile, partial_dir: Path) -> Path:
    """Where the bytes of `file` gather until they are verified."""
    return partial_dir / f"{file.path}.{file.key}"


def present_bytes(file: RemoteFile, directory: Path, partial_dir: Path) -> int:
    """Bytes of `file` that need not be fetched any more (not verified yet)."""
    for path in (partial_path(file, partial_dir), directory / file.path):
        if path.is_file():
            return min(path.stat().st_size, file.size_bytes)
    return 0


def fetch_file(source: Source, file: RemoteFile, directory: Path, partial_dir: Path, watcher: Watcher) -> str:
    """Bring `file` to `partial_path`, verified; returns its SHA-256 in hex.

    Taken in this order: the partial file, the same file in `directory`, the source's cache on this host, the network.
    Interrupted at any point, the next call goes on. Raises HostError when the content is wrong twice.
    """
    partial = partial_path(file, partial_dir)
    if not partial.exists():
        _adopt(directory / file.path, partial, file)
    if not partial.exists() and (cached := source.cached(file)) is not None:
        disk.link_or_copy(cached, partial)
    for _ in range(2):
        digest = _Digest(file)
        if partial.exists():
            digest.read(partial, watcher)
        if digest.count != file.size_bytes:
            _transfer(source, file, partial, digest, watcher)
        if digest.matches():
            return digest.sha256.hexdigest()
        partial.unlink()
        watcher.note(f"{file.path}: wrong checksum, fetching it again")
    raise HostError(f"{file.path}: what {source.name} delivers does not have the checksum that was stated for it")


def _adopt(existing: Path, partial: Path, file: RemoteFile) -> None:
    """Use a file already in place (of another revision, or of a lost catalog) when its content is the wanted one."""
    if existing.is_file() and not existing.is_symlink() and existing.stat().st_size == file.size_bytes:
        digest = _Digest(file)
        digest.read(existing, None)
        if digest.matches():
            disk.link_or_copy(existing, partial)


class _Digest:
    """The hashes of the bytes seen so far, whether they came from disk or from the network."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self.reset()

    def reset(self) -> None:
        self.count = 0
        self.sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % self._file.size_bytes, usedforsecurity=False)

    def update(self, data: bytes) -> None:
        self.count += len(data)
        self.sha256.update(data)
        if not self._file.sha256:
            self._git.update(data)

    def read(self, path: Path, watcher: Watcher | None) -> None:
        with open(path, "rb") as source:
            while data := source.read(_CHUNK_BYTES):
                self.update(data)
                if watcher is not None:
                    watcher.advance(self.count)

    def matches(self) -> bool:
        if self.count != self._file.size_bytes:
            return False
        if self._file.sha256:
            return self.sha256.hexdigest() == self._file.sha256
        return self._git.hexdigest() == self._file.git_sha1


def _transfer(source: Source, file: RemoteFile, partial: Path, digest: _Digest, watcher: Watcher) -> None:
    """Append what is missing of `file` to `partial`, through broken connections, as long as each brings something."""
    idle = 0
    while digest.count < file.size_bytes:
        before = digest.count
        try:
            _stream(source, file, partial, digest, watcher)
        except Interrupted as error:
            idle = 0 if digest.count > before else idle + 1
            if idle >= RETRIES_MAX:
                raise Unreachable(
                    f"{file.path}: {source.name} does not deliver ({error}); run the same command to go on"
                ) from None
            delay = min(_BACKOFF_S * 2**idle, _BACKOFF_MAX_S)
            watcher.note(f"{file.path}: connection lost at {digest.count} bytes, going on in {delay:g} s")
            time.sleep(delay)


def _stream(source: Source, file: RemoteFile, partial: Path, digest: _Digest, watcher: Watcher) -> None:
    with source.open(file, digest.count) as body:
        if not body.resumed:
            digest.reset()
        with open(partial, "ab" if body.resumed else "wb") as target:
            _append(body.chunks, target, file, digest, watcher)
    if digest.count < file.size_bytes:
        raise Interrupted("the body ended early")


def _append(chunks: Iterator[bytes], target: BinaryIO, file: RemoteFile, digest: _Digest, watcher: Watcher) -> None:
    try:
        for chunk in chunks:
            if digest.count + len(chunk) > file.size_bytes:
                raise HostError(f"{file.path}: the other side sends more bytes than were stated")
            target.write(chunk)
            target.flush()
            digest.update(chunk)
            watcher.advance(digest.count)
        os.fsync(target.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HostError(f"the disk is full at {file.path}; make room and run the same command to go on") from None
        raise


def publish(snapshot: Snapshot, directory: Path, partial_dir: Path) -> None:
    """Move every verified file into `directory` and remove the folder of partial files."""
    for file in snapshot.files:
        partial_path(file, partial_dir).replace(directory / file.path)
    disk.sync_dir(directory)
    shutil.rmtree(partial_dir, ignore_errors=True)


def checked_sha256(file: RemoteFile, path: Path, watcher: Watcher) -> str:
    """The SHA-256 of `path`, whose content must be the one that `file` states. Raises HostError."""
    digest = _Digest(file)
    digest.read(path, watcher)
    if not digest.matches():
        raise HostError(f"{path} is damaged: its checksum is not the one that was stated for it")
    return digest.sha256.hexdigest()


def hash_file(path: Path, on_bytes: Callable[[int], None]) -> str:
    """The SHA-256 of a file, in hex; `on_bytes` is told the bytes read so far."""
    digest = hashlib.sha256()
    count = 0
    with open(path, "rb") as source:
        while data := source.read(_CHUNK_BYTES):
            digest.update(data)
            count += len(data)
            on_bytes(count)
    return digest.hexdigest()
