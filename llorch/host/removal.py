"""`self uninstall`: the program leaves the host, its data only when that is asked for.

Processes that run from the installed or unpacked program are ended first. The folder of the running program goes last,
so that whatever interrupts this, the same command can be given again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from llorch.base import config
from llorch.base.errors import HostError
from llorch.host import cores, in_use, install, process, prune, runtime

GRACE_S = 30.0
# What a home and a state directory hold, for those that the user named: nothing else in there is ours.
_DATA = ("catalog.json", ".catalog.lock", "measured.json", "models", "workers", "home-id")
_STATE = ("orchestratord.sqlite", "orchestratord.sqlite-shm", "orchestratord.sqlite-wal", "orchestratord.json")
_STATE_MORE = ("orchestratord-settings.json", "segments", "worker-token", "policy.star")


class Data(Enum):
    """What becomes of models, workers' logs and the orchestrator's state."""

    KEEP = "keep"
    PURGE = "purge"


@dataclass(frozen=True, slots=True)
class Removal:
    """What there is to end and to remove; `data` is empty when it is kept."""

    users: tuple[in_use.User, ...]
    links: tuple[Path, ...]
    folders: tuple[Path, ...]
    data: tuple[Path, ...]


def plan(env: Mapping[str, str], prefix: Path | None, data: Data) -> Removal:
    """What `carry_out` would do. Raises HostError for a home that is a source checkout."""
    where, cache = install.places(env, prefix), config.cache_dir(env)
    installed, unpacked = prune.installed_in(where.versions), prune.unpacked_in(cache)
    shared = cores.shared_path()
    ours = {os.getpid(), os.getppid()}  # the one file's two processes
    places = [*installed, *unpacked, *([shared] if shared is not None and shared.exists() else [])]
    users = [user for user in in_use.users(places) if user.pid not in ours]
    ending = [user for user in users if user.runs_from is not None]
    # What a program that is not ours to end has mapped stays: another prefix may share the cache.
    staying = {folder for user in users if user.runs_from is None for folder in user.folders}
    half_made = [*prune.half_made_in(cache), *prune.half_made_in(where.versions)]
    folders = [*half_made, *sorted(cache.glob(".lock-*")), *(place for place in places if place not in staying)]
    data_places = _data(env) if data is Data.PURGE else []
    return Removal(tuple(ending), tuple(_links(where)), tuple(folders), tuple(data_places))


def _links(where: install.Places) -> list[Path]:
    """The links that lead to an installed version, also a dangling one."""
    versions = where.versions.resolve()
    found = [path for place in (where.bin_dir, where.man_dir) if place.is_dir() for path in place.iterdir()]
    links = [path for path in found if path.is_symlink() and path.resolve().is_relative_to(versions)]
    previous = where.versions / install.PREVIOUS
    return sorted(links) + ([previous] if previous.is_symlink() else [])


def _data(env: Mapping[str, str]) -> list[Path]:
    if env.get("LLORCH_HOME") == "checkout":
        raise HostError("LLORCH_HOME=checkout: the models belong to a source checkout; remove them by hand")
    found = []
    rows = ((config.data_dir(env), "LLORCH_HOME", _DATA), (config.state_dir(env), "LLORCH_STATE", _STATE + _STATE_MORE))
    for folder, variable, names in rows:
        if not env.get(variable):
            found.append(folder)  # the XDG directory is ours alone
        else:
            found += [folder / name for name in names]
    return [path for path in found if path.exists()]


def carry_out(removal: Removal, env: Mapping[str, str], prefix: Path | None) -> list[str]:
    """End the processes and remove everything, the running program's own folder last. What could not be removed.

    Raises HostError, with nothing removed, when a process cannot be ended.
    """
    own = runtime.one_folder_program().parent.resolve() if runtime.is_one_folder() else None
    for user in removal.users:
        process.terminate(user.pid, user.start_time, grace_s=GRACE_S)
    problems: list[str] = []
    own_last = sorted(removal.folders, key=lambda folder: folder.resolve() == own)
    for path in (*removal.data, *removal.links, *own_last):
        _remove(path, problems)
    where = install.places(env, prefix)
    homes = (config.data_dir(env), config.state_dir(env)) if removal.data else ()
    limits = [config.home_dir(env).resolve(), *([prefix.absolute()] if prefix else [])]
    _remove_empty((where.versions, where.bin_dir, where.man_dir, config.cache_dir(env), *homes), limits)
    return problems


def _remove(path: Path, problems: list[str]) -> None:
    def failed(function: object, place: str, info: object) -> None:
        problems.append(place)

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, onerror=failed)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError:
        problems.append(str(path))


def _remove_empty(folders: Sequence[Path], limits: Sequence[Path]) -> None:
    """Directories that are empty now, and those above them up to a limit, which stays."""
    for folder in folders:
        for place in (folder, *folder.parents):
            inside = any(place != limit and place.resolve().is_relative_to(limit) for limit in limits)
            if place != folder and not inside:
                break
            try:
                place.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                break  # something is in it
