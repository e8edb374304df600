"""`models verify|delete`: commands that check, mend or remove the files of a model."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Collection
from dataclasses import replace

from llorch.base.errors import HostError, NotFound
from llorch.base.home import Home, find_home
from llorch.host import disk, fetch, hub
from llorch.host.fetch import RemoteFile, Snapshot
from llorch.pool import arrival, catalog_file, output, progress, records
from llorch.pool.output import print_json
from llorch.pool.terminal import Terminal
from llorch.wire.catalog import Catalog, ModelEntry

Problem = tuple[str, str]  # path, what is wrong with it


def verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="ID")
    parser.add_argument("--fix", action="store_true", help="download the damaged files again, and only those")


def verify(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Exit 1 when a file is missing or changed (and not mended). JSON: {id, ok, problems: [{path, problem}], fixed}."""
    home = find_home(os.environ)
    entry = catalog_file.load(home).get(arguments.model)
    if not entry.downloaded or (not entry.files and not entry.embedded):
        raise NotFound(
            f"model '{entry.id}' is not downloaded: nothing to verify (llorch-pool models download {entry.id})"
        )
    shown = progress.choose(terminal, False, sum(file.size_bytes for file in entry.files))
    try:
        problems = _problems(home, entry, shown)
    finally:
        shown.close()
    fixed: list[Problem] = []
    if problems and arguments.fix:
        _mend(home, entry, {path for path, _ in problems}, terminal)
        fixed, problems = problems, []
    _report(entry, problems, fixed, arguments)
    return 1 if problems else 0


def _report(entry: ModelEntry, problems: list[Problem], fixed: list[Problem], arguments: argparse.Namespace) -> None:
    if arguments.json:
        rows = [{"path": path, "problem": problem} for path, problem in problems]
        print_json({"id": entry.id, "ok": not problems, "problems": rows, "fixed": [path for path, _ in fixed]})
        return
    for path, problem in (*problems, *fixed):
        print(f"{path}: {problem}")
    if problems:
        print(f"Model {entry.id} is damaged: run llorch-pool models verify {entry.id} --fix")
    elif fixed:
        print(f"Model {entry.id} is mended ({len(fixed)} of {len(entry.files)} files downloaded again)")
    else:
        print(f"Model {entry.id} is intact ({len(entry.files)} files)")


def _problems(home: Home, entry: ModelEntry, shown: progress.Progress) -> list[Problem]:
    if not entry.files:
        return []  # embedded: checked with the program itself
    folder = catalog_file.directory(home, entry)
    problems = []
    done_bytes = 0
    for file in entry.files:
        path = folder / file.path
        shown.start(file.path, done_bytes)
        if not path.is_file():
            problems.append((file.path, "missing"))
        elif path.stat().st_size != file.size_bytes:
            problems.append((file.path, f"has {path.stat().st_size} bytes instead of {file.size_bytes}"))
        elif fetch.hash_file(path, shown.advance) != file.sha256:
            problems.append((file.path, "wrong checksum"))
        done_bytes += file.size_bytes
    return problems


def _mend(home: Home, entry: ModelEntry, damaged: Collection[str], terminal: Terminal) -> None:
    """Fetch the damaged files at the recorded commit; what arrives must have the recorded checksums."""
    if not entry.repo or not entry.revision:
        raise HostError(
            f"model '{entry.id}' is damaged ({', '.join(sorted(damaged))}) and was not downloaded from the hub: "
            "delete it and import it again, or copy it from another pool"
        )
    files = tuple(RemoteFile(f.path, f.size_bytes, f.sha256, "") for f in entry.files if f.path in damaged)
    snapshot = Snapshot(entry.repo, entry.revision, files)
    folder = catalog_file.directory(home, entry)
    shown = progress.choose(terminal, False, snapshot.size_bytes)
    with disk.locked(home.model_lock_path(entry.id), timeout_s=arrival.LOCK_TIMEOUT_S):
        disk.make_dir(folder / arrival.PARTIAL_DIR)
        try:
            arrival.check_room(snapshot, folder, shown)
            arrival.fetch_all(snapshot, hub.pinned(entry.repo, entry.revision, files), folder, shown)
        finally:
            shown.close()
        fetch.publish(snapshot, folder, folder / arrival.PARTIAL_DIR)


def delete_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="ID")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def delete(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Delete the files (partial ones, too); the entry stays, as not downloaded. JSON: {id, freed_bytes}."""
    home = find_home(os.environ)
    entry = catalog_file.load(home).get(arguments.model)
    if entry.embedded:
        raise HostError(f"model '{entry.id}' is part of llorch and cannot be deleted (unregister hides it)")
    _check_unused(home, entry)
    folder = catalog_file.directory(home, entry)
    size_bytes = disk.size_bytes(folder)
    if not arguments.yes and not output.confirmed(f"Delete {folder} ({progress.megabytes(size_bytes)})?", "-y"):
        return 1
    with disk.locked(home.model_lock_path(entry.id), timeout_s=5.0):
        # Spawns look again under the same lock: none can begin with files that are about to go.
        with disk.locked(home.workers_lock_path):
            _check_unused(home, entry)
            catalog_file.change(home, lambda catalog: _without_files(catalog, entry))
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        raise HostError(f"{folder} could not be deleted completely")
    if arguments.json:
        print_json({"id": entry.id, "freed_bytes": size_bytes})
    else:
        print(f"Model {entry.id} deleted, {progress.megabytes(size_bytes)} freed")
    return 0


def _check_unused(home: Home, entry: ModelEntry) -> None:
    users = [record.worker_id for record in records.load_all(home) if record.model == entry.id and record.is_alive()]
    if users:
        raise HostError(
            f"model '{entry.id}' is in use by {', '.join(users)}: stop first (llorch-pool worker stop {users[0]})"
        )


def _without_files(catalog: Catalog, entry: ModelEntry) -> Catalog:
    """The catalog with `entry` as not downloaded. A built-in that nobody stored is not ours to keep in it."""
    stored = next((known for known in catalog.models if known.id == entry.id), None)
    if stored is None:
        return catalog
    return catalog.with_entry(replace(stored, downloaded=False, size_bytes=0, files=(), revision=""))
