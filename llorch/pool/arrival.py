"""A model's arrival: from any source to verified files in place and a catalog entry that says so.

Killed at any point, the next arrival goes on where this one stopped; until the last file is verified and in its place
the catalog says: not downloaded. Call with the model's lock held.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llorch.base.errors import HostError
from llorch.base.home import Home
from llorch.host import disk, fetch
from llorch.host.process import available_memory_bytes
from llorch.pool import catalog_file, progress
from llorch.wire.catalog import ModelEntry, ModelFile, downloaded_as

LOCK_TIMEOUT_S = 24 * 3600.0
PARTIAL_DIR = ".partial"
_SPARE_BYTES = 64 << 20


def bring(
    home: Home, entry: ModelEntry, snapshot: fetch.Snapshot, source: fetch.Source, shown: progress.Progress
) -> ModelEntry:
    """Fetch every file of `snapshot` and put it in place; the new entry. Raises HostError, Unreachable."""
    folder = home.model_dir(entry.id, entry.path)
    partial_dir = folder / PARTIAL_DIR
    disk.make_dir(partial_dir)
    if catalog_file.load(home).find_id(entry.id) != entry:
        catalog_file.change(home, lambda catalog: catalog.with_entry(entry))
    check_room(snapshot, folder, shown)
    files = fetch_all(snapshot, source, folder, shown)
    return _publish(home, entry, snapshot, files, folder)


def check_room(snapshot: fetch.Snapshot, folder: Path, shown: progress.Progress) -> None:
    """Raises HostError when the disk is too small; a model that will not fit the memory is only remarked on."""
    partial_dir = folder / PARTIAL_DIR
    missing = snapshot.size_bytes - sum(fetch.present_bytes(file, folder, partial_dir) for file in snapshot.files)
    free = disk.free_bytes(folder)
    if missing and missing + _SPARE_BYTES > free:
        raise HostError(
            f"not enough disk space: {progress.megabytes(missing)} to fetch and {progress.megabytes(_SPARE_BYTES)} to "
            f"spare, {progress.megabytes(free)} are free; free some, or set LLORCH_HOME to a folder on another disk"
        )
    memory = available_memory_bytes()
    if snapshot.size_bytes > memory:
        size = progress.megabytes(snapshot.size_bytes)
        shown.note(f"note: the model has {size}, more than the {progress.megabytes(memory)} of memory now free here")


def fetch_all(
    snapshot: fetch.Snapshot, source: fetch.Source, folder: Path, shown: progress.Progress
) -> tuple[ModelFile, ...]:
    """Bring every file to its partial place, verified."""
    files = []
    done_bytes = 0
    for file in snapshot.files:
        shown.start(file.path, done_bytes)
        sha256 = fetch.fetch_file(source, file, folder, folder / PARTIAL_DIR, shown)
        files.append(ModelFile(file.path, file.size_bytes, sha256))
        done_bytes += file.size_bytes
    return tuple(files)


def _publish(
    home: Home, entry: ModelEntry, snapshot: fetch.Snapshot, files: tuple[ModelFile, ...], folder: Path
) -> ModelEntry:
    """Move the verified files in place; while old and new ones may be mixed, the catalog says: not downloaded."""
    if entry.downloaded:
        catalog_file.change(home, lambda catalog: catalog.with_entry(replace(entry, downloaded=False)))
    fetch.publish(snapshot, folder, folder / PARTIAL_DIR)
    for stale in {file.path for file in entry.files} - {file.path for file in files}:
        (folder / stale).unlink(missing_ok=True)
    path = catalog_file.stored_path(home, folder)
    named = replace(entry, licence=snapshot.licence or entry.licence)
    if snapshot.gated is not None:
        named = replace(named, gated=snapshot.gated)
    done = downloaded_as(named, path=path, revision=snapshot.revision, files=files)
    catalog_file.change(home, lambda catalog: catalog.with_entry(done))
    return done


def is_here(home: Home, entry: ModelEntry) -> bool:
    """Is every recorded file in place with its recorded size?"""
    if not entry.downloaded or not entry.files:
        return False
    folder = catalog_file.directory(home, entry)
    return all(
        (folder / file.path).is_file() and (folder / file.path).stat().st_size == file.size_bytes
        for file in entry.files
    )
