"""`models download`: from the hub's repository at one commit to verified files and a catalog entry.

Interrupted at any point, the same command goes on; until the last file is verified the catalog says: not downloaded.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

from llorch.base.config import did_you_mean
from llorch.base.errors import HostError, ModelNotFound
from llorch.base.home import Home, find_home
from llorch.host import disk, fetch
from llorch.host.process import available_memory_bytes
from llorch.pool import catalog_file, progress
from llorch.pool.models import model_body
from llorch.pool.terminal import Terminal
from llorch.wire.catalog import Catalog, ModelEntry, ModelFile, built_in, downloaded_as, id_from_repo

_LOCK_TIMEOUT_S = 24 * 3600.0
_SPARE_BYTES = 64 << 20
PARTIAL_DIR = ".partial"


def download_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="ID|ORG/REPO", help="a model of the catalog, or any repository of the hub")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit (default: the repository's default)")
    parser.add_argument("--force", action="store_true", help="ask the hub again, although it is downloaded")
    parser.epilog = (
        "Only safetensors, JSON, tokenizer.model and chat_template.jinja are fetched, each checked by its checksum. "
        "HF_TOKEN, HF_ENDPOINT and the other variables of the hub's own tools are honoured. "
        "Interrupted, the same command goes on."
    )


def download(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """JSON: progress lines, then {"type": "done", "model": model_body, "already": bool}."""
    home = find_home(os.environ)
    entry = _find(catalog_file.load(home), arguments.model)
    if entry.embedded:
        return _finish(home, entry, arguments, already=True)
    if not entry.repo:
        raise HostError(f"model '{entry.id}' has no repository: register --id {entry.id} --repo ORG/REPO")

    def waiting() -> None:
        progress.choose(terminal, arguments.json, 0).note(f"another process is downloading {entry.id}; waiting for it")

    lock = home.models_dir / f".{entry.id}.lock"
    with disk.locked(lock, timeout_s=_LOCK_TIMEOUT_S, waiting=waiting):
        entry = catalog_file.load(home).find_id(entry.id) or entry
        if _is_here(home, entry, arguments):
            return _finish(home, entry, arguments, already=True)
        entry = _download(home, entry, arguments, terminal)
    return _finish(home, entry, arguments, already=False)


def _find(catalog: Catalog, target: str) -> ModelEntry:
    """The entry to download; a repository that no entry names gets one."""
    if "/" not in target:
        # A hidden built-in is shown again by downloading it.
        found = catalog.find(target) or built_in(target)
        if found is None:
            known = [name for entry in catalog.entries() for name in (entry.id, *entry.aliases)]
            hint = did_you_mean(target, known) or "; a repository is downloaded by ORG/REPO"
            raise ModelNotFound(f"no model '{target[:96]}' in the catalog{hint}")
        return found
    if (by_repo := catalog.by_repo(target)) is not None:
        return by_repo
    model_id = id_from_repo(target)
    if catalog.find_id(model_id) is not None:
        raise HostError(f"'{model_id}' is another model already: register --id OTHER --repo {target}, then download it")
    return ModelEntry(model_id, target.rsplit("/", 1)[-1], target, "", path="")


def _is_here(home: Home, entry: ModelEntry, arguments: argparse.Namespace) -> bool:
    if arguments.force or not entry.downloaded or arguments.revision not in (None, entry.revision):
        return False
    folder = catalog_file.directory(home, entry)
    return bool(entry.files) and all(
        (folder / file.path).is_file() and (folder / file.path).stat().st_size == file.size_bytes
        for file in entry.files
    )


def _download(home: Home, entry: ModelEntry, arguments: argparse.Namespace, terminal: Terminal) -> ModelEntry:
    snapshot = fetch.look_up(entry.repo, arguments.revision)
    folder = home.model_dir(entry.id, entry.path)
    partial_dir = folder / PARTIAL_DIR
    disk.make_dir(partial_dir)
    if catalog_file.load(home).find_id(entry.id) != entry:
        catalog_file.change(home, lambda catalog: catalog.with_entry(entry))
    shown = progress.choose(terminal, arguments.json, snapshot.size_bytes)
    _check_room(snapshot, folder, partial_dir, shown)
    try:
        files = _fetch_all(snapshot, folder, partial_dir, shown)
    finally:
        shown.close()
    return _publish(home, entry, snapshot, files, folder)


def _check_room(snapshot: fetch.Snapshot, folder: Path, partial_dir: Path, shown: progress.Progress) -> None:
    """Raises HostError when the disk is too small; a model that will not fit the memory is only remarked on."""
    missing = snapshot.size_bytes - sum(fetch.present_bytes(file, folder, partial_dir) for file in snapshot.files)
    free = disk.free_bytes(folder)
    if missing and missing + _SPARE_BYTES > free:
        raise HostError(
            f"not enough disk space: {progress.megabytes(missing)} are missing, {progress.megabytes(free)} are free"
        )
    memory = available_memory_bytes()
    if snapshot.size_bytes > memory:
        size = progress.megabytes(snapshot.size_bytes)
        shown.note(f"note: the model has {size}, more than the {progress.megabytes(memory)} of memory now free here")


def _fetch_all(
    snapshot: fetch.Snapshot, folder: Path, partial_dir: Path, shown: progress.Progress
) -> tuple[ModelFile, ...]:
    files = []
    done_bytes = 0
    for file in snapshot.files:
        shown.start(file.path, done_bytes)
        sha256 = fetch.fetch_file(snapshot, file, folder, partial_dir, shown)
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
    done = downloaded_as(entry, path=path, revision=snapshot.revision, files=files)
    catalog_file.change(home, lambda catalog: catalog.with_entry(done))
    return done


def _finish(home: Home, entry: ModelEntry, arguments: argparse.Namespace, *, already: bool) -> int:
    if arguments.json:
        print(json.dumps({"type": "done", "model": model_body(home, entry), "already": already}))
    elif entry.embedded:
        print(f"Model {entry.id} is part of llorch: nothing to download")
    else:
        size = progress.megabytes(entry.size_bytes)
        what = "is downloaded already" if already else "downloaded and verified"
        print(f"Model {entry.id} {what} ({size}, revision {entry.revision[:12]})")
    return 0
