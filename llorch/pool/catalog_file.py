"""Reading and changing `catalog.json` of this host."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from llorch.base.errors import HostError, InvalidRequest
from llorch.base.home import Home
from llorch.host import disk
from llorch.wire.catalog import EMBEDDED, Catalog, ModelEntry, format_catalog, parse_catalog


def load(home: Home) -> Catalog:
    """The catalog; a missing file is empty. A damaged one is set aside, said so on stderr, and begun anew."""
    try:
        return parse_catalog(_read(home))
    except InvalidRequest:
        with disk.locked(home.catalog_lock_path):
            return _load_locked(home)


def change(home: Home, edit: Callable[[Catalog], Catalog]) -> Catalog:
    """Apply `edit` to the catalog as it is now, under the lock, and write it; returns what was written."""
    disk.make_dir(home.catalog_path.parent)
    with disk.locked(home.catalog_lock_path):
        before = _load_locked(home)
        after = edit(before)
        if after != before or not home.catalog_path.exists():
            disk.write_atomic(home.catalog_path, format_catalog(after))
        return after


def _load_locked(home: Home) -> Catalog:
    try:
        return parse_catalog(_read(home))
    except InvalidRequest as error:
        aside = disk.set_aside(home.catalog_path)
        print(
            f"llorch-pool: the catalog {home.catalog_path} is damaged ({error.message}); it is kept as {aside.name}. "
            "Models are still on disk: download or import them again to list them, nothing is fetched twice.",
            file=sys.stderr,
        )
        return Catalog()


def _read(home: Home) -> bytes:
    try:
        return home.catalog_path.read_bytes()
    except FileNotFoundError:
        return format_catalog(Catalog())
    except OSError as error:
        raise HostError(f"cannot read the catalog {home.catalog_path}: {error.strerror}") from error


def directory(home: Home, entry: ModelEntry) -> Path:
    """Where the files of `entry` are, or will be."""
    if entry.embedded:
        from llorch.host import runtime  # only embedded models need it, and a listing should not wait for its imports

        return Path(runtime.assets_dir()) / entry.path.removeprefix(EMBEDDED)
    return home.model_dir(entry.id, entry.path)


def stored_path(home: Home, model_dir: Path) -> str:
    """`model_dir` as the catalog stores it: relative to the directory of `catalog.json`."""
    return os.path.relpath(model_dir, home.catalog_path.parent.resolve())


def present_bytes(home: Home, entry: ModelEntry) -> int:
    """The size to list: as verified at download, or as it lies on disk; 0 when not downloaded."""
    if not entry.downloaded or entry.embedded:
        return entry.size_bytes if entry.embedded else 0
    return entry.size_bytes or disk.size_bytes(directory(home, entry))
