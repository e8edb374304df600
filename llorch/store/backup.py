"""One file with all that survives the process: made beside a running daemon, and unpacked only when it is whole.

A backup is a tar: the database as of one moment, the segments that its jobs still count on, the worker token,
the policy script that was deployed, and last a manifest with the digest of each. A segment may be ahead of the
database, as it may be after `kill -9`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llorch.base.errors import ConfigError, HostError, NotFound
from llorch.base.ids import JOB_ID
from llorch.store import database
from llorch.store.segments import SUFFIX, sound_part
from llorch.store.statements import sql

FORMAT = 1
DATABASE = "orchestratord.sqlite"
FOLDER = "segments"
TOKEN = "worker-token"
SCRIPT = "policy.star"
MANIFEST = "manifest.json"
CHUNK_SIZE = 1 << 20
MANIFEST_SIZE_MAX = 256 << 20


@dataclass(frozen=True, slots=True)
class Contents:
    """What a backup holds: `jobs` are all records; `live_jobs` go on when it is restored and started."""

    jobs: int
    live_jobs: int
    segments: int
    size_bytes: int


class DamagedBackup(HostError):
    """The file is not a backup, or not a whole one."""


@dataclass(slots=True)
class _Writing:
    """A tar that is being written, and the digests of what is in it."""

    tar: tarfile.TarFile
    digests: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, data: bytes) -> None:
        """One member that is in memory."""
        self._add(name, len(data), io.BytesIO(data))
        self.digests[name] = hashlib.sha256(data).hexdigest()

    def add_file(self, name: str, path: Path) -> None:
        """One member that is a file nobody changes meanwhile."""
        with open(path, "rb") as file:
            self._add(name, path.stat().st_size, file)
            file.seek(0)
            self.digests[name] = hashlib.file_digest(file, "sha256").hexdigest()

    def _add(self, name: str, size: int, file: Any) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode, entry.mtime = size, 0o600, int(time.time())
        self.tar.addfile(entry, file)


def make(state_dir: Path, target: Path) -> Contents:
    """Write the backup of a state directory to `target`, complete or not at all, mode 0600.

    Raises NotFound when there is no database, ConfigError when `target` exists, HostError.
    """
    if not (state_dir / DATABASE).is_file():
        raise NotFound(f"there is no orchestratord's database in {state_dir}")
    if target.exists():
        raise ConfigError(f"{target} exists already: choose another name, or remove it")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    copy = partial.with_suffix(".database")
    try:
        with _private(partial) as file, tarfile.open(fileobj=file, mode="w") as tar:
            writing = _Writing(tar)
            _private(copy).close()
            found = _copy_database(state_dir / DATABASE, copy)
            writing.add_file(DATABASE, copy)
            copy.unlink()
            segments = _add_segments(writing, state_dir / FOLDER, found.with_segment)
            for path in (state_dir / TOKEN, state_dir / SCRIPT):
                if path.is_file():
                    writing.add(path.name, path.read_bytes())
            about = {
                "format": FORMAT,
                "schema": found.schema,
                "made_at": int(time.time()),
                "sha256": dict(writing.digests),
            }
            writing.add(MANIFEST, json.dumps(about).encode())
            tar.close()
            file.flush()
            os.fsync(file.fileno())
        size = partial.stat().st_size
        partial.rename(target)
        _sync(target.parent)
    except OSError as error:
        raise HostError(f"the backup {target} cannot be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)
        copy.unlink(missing_ok=True)
        copy.with_name(f"{copy.name}-journal").unlink(missing_ok=True)  # a full disk leaves it
    return Contents(found.jobs, sum(found.with_segment.values()), segments, size)


def _private(path: Path) -> io.BufferedWriter:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


@dataclass(frozen=True, slots=True)
class _Database:
    """What was found in one. `with_segment` are the jobs that count on a segment; True: live."""

    jobs: int
    with_segment: dict[str, bool]
    schema: int


def _copy_database(source: Path, copy: Path) -> _Database:
    """Copy the database as of now."""
    try:
        with closing(database.open_reader(source)) as reader, closing(sqlite3.connect(copy)) as target:
            reader.backup(target)  # in one step: a writer meanwhile neither waits nor makes it begin anew
            target.execute("PRAGMA journal_mode = DELETE")
            return _examine(target)
    except sqlite3.Error as error:
        raise HostError(f"the database {source} cannot be copied: {error}") from None


def _examine(connection: sqlite3.Connection) -> _Database:
    """What is in a sound database. Raises HostError, SchemaTooNew, sqlite3.Error."""
    (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise HostError(f"the database is damaged: {str(verdict).splitlines()[0]}")
    version = database.version_of(connection)
    (jobs,) = connection.execute(sql("count_jobs")).fetchone()
    with_segment = {name: bool(live) for name, live in connection.execute(sql("backed_up_jobs"))}
    return _Database(jobs, with_segment, version)


def _add_segments(writing: _Writing, folder: Path, jobs: dict[str, bool]) -> int:
    """The sound part of each job's segment, which a daemon may be appending to; how many there are."""
    count = 0
    for job_id in jobs:
        try:
            data = (folder / (job_id + SUFFIX)).read_bytes()
        except FileNotFoundError:
            continue  # nothing was relayed yet, or its output has expired since
        writing.add(f"{FOLDER}/{job_id}{SUFFIX}", data[: sound_part(data)[0]])
        count += 1
    return count


def unpack(source: Path, folder: Path) -> Contents:
    """Unpack a backup into an empty `folder` (made, 0700), every part checked.

    Raises NotFound, DamagedBackup, SchemaTooNew when a newer llorch made it, HostError when the disk refuses.
    """
    if not source.is_file():
        raise NotFound(f"there is no file {source}")
    try:
        (folder / FOLDER).mkdir(mode=0o700, parents=True)
        folder.chmod(0o700)
        with tarfile.open(source, "r:") as tar:
            digests, manifest = _unpack_members(tar, folder)
        _check(manifest, digests)
        with closing(sqlite3.connect(folder / DATABASE)) as connection:
            found = _examine(connection)
    except (tarfile.TarError, sqlite3.DatabaseError, EOFError) as error:
        raise DamagedBackup(f"{source} is not a backup of orchestratord, or not a whole one: {error}") from None
    except OSError as error:
        raise HostError(f"the backup {source} cannot be unpacked: {error.strerror or error}") from None
    segments = sum(name.startswith(f"{FOLDER}/") for name in digests)
    return Contents(found.jobs, sum(found.with_segment.values()), segments, source.stat().st_size)


def _unpack_members(tar: tarfile.TarFile, folder: Path) -> tuple[dict[str, str], bytes]:
    """Write every member; their digests by name, and the manifest."""
    digests: dict[str, str] = {}
    manifest = b""
    for entry in tar:
        if manifest or entry.name in digests or not entry.isreg() or not _is_ours(entry.name):
            raise DamagedBackup(f"the backup holds something that is not its own: {entry.name[:128]!r}")
        if entry.name == MANIFEST:
            manifest = b"".join(_pieces(tar, entry, MANIFEST_SIZE_MAX))
            continue
        digest = hashlib.sha256()
        with _private(folder / entry.name) as file:
            for piece in _pieces(tar, entry, entry.size):
                file.write(piece)
                digest.update(piece)
            file.flush()
            os.fsync(file.fileno())
        digests[entry.name] = digest.hexdigest()
    return digests, manifest


def _is_ours(name: str) -> bool:
    if name in (DATABASE, TOKEN, SCRIPT, MANIFEST):
        return True
    folder, _, file = name.partition("/")
    return folder == FOLDER and file.endswith(SUFFIX) and JOB_ID.fullmatch(file.removesuffix(SUFFIX)) is not None


def _pieces(tar: tarfile.TarFile, entry: tarfile.TarInfo, size_max: int) -> Iterator[bytes]:
    file = tar.extractfile(entry)
    assert file is not None, "a regular member"
    left = min(entry.size, size_max)
    while left:
        piece = file.read(min(left, CHUNK_SIZE))
        if not piece:
            raise DamagedBackup("the backup breaks off")
        left -= len(piece)
        yield piece


def _check(manifest: bytes, digests: dict[str, str]) -> None:
    """Is everything there, as it was written? Raises DamagedBackup."""
    if not manifest or DATABASE not in digests:
        raise DamagedBackup("the backup breaks off: its manifest, which is written last, is missing")
    try:
        about = json.loads(manifest)
        made, wanted = about["format"], about["sha256"]
    except (ValueError, KeyError, TypeError):
        raise DamagedBackup("the backup's manifest cannot be read") from None
    if made != FORMAT:
        raise DamagedBackup(f"the backup has format {made!r}, this llorch knows {FORMAT}: use the newer llorch")
    wrong = sorted(name for name in {*wanted, *digests} if wanted.get(name) != digests.get(name))
    if wrong:
        raise DamagedBackup(f"the backup is damaged: {wrong[0][:128]} is not what was written")


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
