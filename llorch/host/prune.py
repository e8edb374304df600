"""Removing builds that nobody needs: installed versions, and what their programs unpacked into the cache.

What a live process runs from or has mapped stays, and so does everything that its build may still load.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from llorch.host import in_use, runtime

UPLOAD_PREFIX = ".upload-"  # what `llorch pool install` copies here
# Half-made folders are somebody's work in progress for so long.
HALF_MADE_S = 3600.0
_UNPACKED = re.compile(r"(app|torch|net|engine)-[0-9a-f]{12,16}")


def prune(versions: Path, cache: Path, keep: Collection[Path]) -> list[Path]:
    """Remove all versions but `keep`, and all unpacked builds but theirs, unless in use; what was removed."""
    installed = installed_in(versions)
    unpacked = unpacked_in(cache)
    users = in_use.users([*installed, *unpacked])
    busy = {folder for user in users for folder in user.folders}
    kept = {folder for folder in installed if folder in keep or folder in busy}
    runs_from = {user.runs_from for user in users if user.runs_from is not None}
    names = {name for folder in kept | runs_from for name in unpacked_names(folder)}
    removed = [folder for folder in installed if folder not in kept and _remove(folder)]
    stale = [folder for folder in unpacked if folder.name not in names and folder not in busy]
    removed += [folder for folder in stale if _remove_locked(folder)]
    for half_made in (*half_made_in(versions), *half_made_in(cache)):
        if time.time() - _newest_change(half_made) > HALF_MADE_S:
            _remove(half_made)
    return removed


def installed_in(versions: Path) -> list[Path]:
    """The folders of installed versions."""
    return [path for path in _folders(versions) if not path.name.startswith(".")]


def unpacked_in(cache: Path) -> list[Path]:
    """The folders of unpacked programs and runtimes."""
    return [path for path in _folders(cache) if _UNPACKED.fullmatch(path.name)]


def half_made_in(place: Path) -> list[Path]:
    """What unpackings, installations and uploads are making, or left when they were killed."""
    leads = (".tmp-", UPLOAD_PREFIX)
    return [p for p in _folders(place) if p.name.startswith(leads) or re.fullmatch(r"\.\d+\.\d+.*-\w{8}", p.name)]


def _folders(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    return sorted(path for path in place.iterdir() if path.is_dir() and not path.is_symlink())


def unpacked_names(folder: Path) -> Iterator[str]:
    """The names, in the cache, of what the program in `folder` unpacks; none when it does not say."""
    try:
        facts = json.loads((folder / "_internal" / runtime.BUILD_FILE).read_bytes())
        yield f"app-{facts['build_id']}"
        for name, payload in facts["payloads"].items():
            yield f"{name}-{payload['sha256'][:16]}"
    except (OSError, ValueError, KeyError, TypeError):
        return


def _remove(folder: Path) -> bool:
    """In one step for everybody else: nobody finds half of it."""
    gone = folder.with_name(f".tmp-{folder.name}-{os.urandom(4).hex()}")
    try:
        folder.rename(gone)
    except OSError:
        return False  # another installation is removing it
    shutil.rmtree(gone, ignore_errors=True)
    return True


def _remove_locked(folder: Path) -> bool:
    """As `_remove`, but not while somebody is unpacking it."""
    lock = folder.with_name(f".lock-{folder.name}")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        removed = _remove(folder)
        lock.unlink(missing_ok=True)
        return removed
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _newest_change(folder: Path) -> float:
    newest = 0.0
    for path in (folder, *folder.rglob("*")):
        try:
            newest = max(newest, path.lstat().st_mtime)
        except OSError:
            continue
    return newest
