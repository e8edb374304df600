"""The doctor's look at files: half downloads, what killed writers left, the catalog, permissions, unpacked caches."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from llorch.base.config import cache_dir, state_dir
from llorch.base.errors import InvalidRequest, TryLater
from llorch.base.home import Home
from llorch.base.worker_token import FILE_NAME
from llorch.host import cache, disk, process, runtime
from llorch.pool import catalog_file
from llorch.pool.arrival import PARTIAL_DIR
from llorch.pool.check_processes import FIX
from llorch.pool.findings import Finding, Level, Repair
from llorch.pool.progress import megabytes
from llorch.wire.catalog import parse_catalog

# A download that nobody went on with for so long is given up; before, its files save fetching them twice.
ABANDONED_S = 24 * 3600.0
# A writer locks its temporary file at once.
UNLOCKED_S = 2.0


def look(home: Home, repair: Repair, env: Mapping[str, str]) -> list[Finding]:
    """Everything about files; what is nobody's is removed when told to mend."""
    return [
        *_half_downloads(home, repair),
        *_temporary(home, repair),
        *_catalog(home, repair),
        *_permissions(home, repair, env),
        *_caches(repair, env),
    ]


def _half_downloads(home: Home, repair: Repair) -> list[Finding]:
    found = []
    for partial in sorted(home.models_dir.glob(f"*/{PARTIAL_DIR}")):
        size = disk.size_bytes(partial)
        model_id = partial.parent.name
        if size == 0:
            continue
        try:
            with disk.locked(home.models_dir / f".{model_id}.lock", timeout_s=0):
                found.append(_half_download(partial, size, repair))
        except TryLater:
            detail = f"model {model_id} is being downloaded ({megabytes(size)} so far)"
            found.append(Finding("downloads", Level.NOTE, detail))
    return found


def _half_download(partial: Path, size: int, repair: Repair) -> Finding:
    """One that nobody works on."""
    folder = partial.parent
    detail = f"the download of {folder.name} was left half done ({megabytes(size)})"
    go_on = f"llorch-pool models download {folder.name}"
    if _age_s(partial) < ABANDONED_S:
        return Finding("downloads", Level.NOTE, detail, go_on)
    if repair is Repair.MEND:
        shutil.rmtree(partial, ignore_errors=True)
        if not any(folder.iterdir()):
            folder.rmdir()
    return Finding("downloads", Level.WARNING, f"{detail} days ago", f"{go_on}, or {FIX}", repair is Repair.MEND)


def _age_s(folder: Path) -> float:
    """Seconds since the newest file of `folder` was written."""
    newest = max((p.stat().st_mtime for p in folder.rglob("*") if p.is_file()), default=folder.stat().st_mtime)
    return time.time() - newest


def _temporary(home: Home, repair: Repair) -> list[Finding]:
    """Temporary files of writers that were killed."""
    found = []
    for folder in {home.root, home.catalog_path.parent, home.models_dir}:
        for path in sorted(folder.glob(".*.tmp")):
            if _is_young(path) or not disk.is_abandoned(path):
                continue
            if repair is Repair.MEND:
                path.unlink(missing_ok=True)
            detail = f"{path} was left by a command that was killed"
            found.append(Finding("left-overs", Level.WARNING, detail, FIX, repair is Repair.MEND))
    return found


def _is_young(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime < UNLOCKED_S
    except FileNotFoundError:
        return True  # its writer has finished


def _catalog(home: Home, repair: Repair) -> list[Finding]:
    try:
        parse_catalog(home.catalog_path.read_bytes())
    except FileNotFoundError:
        return []
    except OSError as error:
        mend = f"chmod u+r {home.catalog_path}"
        return [Finding("catalog", Level.PROBLEM, f"cannot read {home.catalog_path}: {error.strerror}", mend)]
    except InvalidRequest as error:
        if repair is Repair.MEND:
            catalog_file.load(home)  # sets it aside and says so
        detail = f"the catalog {home.catalog_path} is damaged: {error.message}"
        return [Finding("catalog", Level.PROBLEM, detail, FIX, repair is Repair.MEND)]
    return []


def _permissions(home: Home, repair: Repair, env: Mapping[str, str]) -> list[Finding]:
    """Directories that we cannot write, and secrets that others can read."""
    found = [
        Finding("permissions", Level.PROBLEM, f"{path} cannot be written", f"sudo chown -R {os.getuid()} {path}")
        for path in (home.root, home.models_dir, home.workers_dir)
        if path.exists() and not os.access(path, os.W_OK | os.X_OK)
    ]
    state = Path(state_dir(env))
    for path, mode in _private(home, state):
        if path.stat().st_mode & 0o077:
            if repair is Repair.MEND:
                path.chmod(mode)
            detail, mend = f"others can read {path}", f"chmod {mode:o} {path}"
            found.append(Finding("permissions", Level.PROBLEM, detail, mend, repair is Repair.MEND))
    return found


def _private(home: Home, state: Path) -> Iterator[tuple[Path, int]]:
    """What is for its owner only, and the mode it should have; what belongs to others is theirs to mend."""
    for path in (state / FILE_NAME, state / "orchestratord.json", *home.workers_dir.glob("*.token")):
        if path.is_file() and path.stat().st_uid == os.getuid():
            yield path, stat.S_IRUSR | stat.S_IWUSR


def _caches(repair: Repair, env: Mapping[str, str]) -> list[Finding]:
    """Unpackings that were killed, and runtimes of builds that are gone: they can be unpacked again."""
    base = Path(cache_dir(env))
    found = []
    for path in cache.stale(base) if base.is_dir() else []:
        detail = f"{path} was left by an unpacking that was killed ({megabytes(disk.size_bytes(path))})"
        found.append(_removed("caches", path, detail, repair))
    for path in _old_runtimes(base):
        detail = f"{path} is a runtime of another build and not in use ({megabytes(disk.size_bytes(path))})"
        found.append(_removed("caches", path, detail, repair))
    return found


def _removed(check: str, path: Path, detail: str, repair: Repair) -> Finding:
    if repair is Repair.MEND:
        shutil.rmtree(path, ignore_errors=True)
    return Finding(check, Level.WARNING, detail, FIX, repair is Repair.MEND)


def _old_runtimes(base: Path) -> list[Path]:
    """From sources nothing is unpacked by us, so that nothing can be told to be old."""
    if not runtime.is_frozen() or not base.is_dir():
        return []
    current = {*runtime.folders().values(), base / f"app-{runtime.build().build_id}"}
    known = ("app", *runtime.folders())
    folders = [p for p in base.iterdir() if p.is_dir() and p.name.rpartition("-")[0] in known and p not in current]
    used = process.mapped_below(base) if folders else set()
    return sorted(p for p in folders if p.name not in used)
