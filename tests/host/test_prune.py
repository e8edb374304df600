"""Old builds go, and what a live process uses stays; an uninstalled host holds nothing of ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llorch.host import install, prune, removal
from llorch.host.removal import Data

BUILDS = ("aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc")


def version(versions: Path, cache: Path, build: str) -> Path:
    """An installed version whose program is `sleep`, and what it unpacked."""
    folder = versions / f"0.1.0-{build}"
    (folder / "_internal").mkdir(parents=True)
    shutil.copy("/bin/sleep", folder / "llorch")
    facts = {"build_id": build, "payloads": {"torch": {"sha256": build * 6}}}
    (folder / "_internal" / "llorch-build.json").write_text(json.dumps(facts))
    for name in (f"app-{build}", f"torch-{(build * 6)[:16]}"):
        (cache / name).mkdir(parents=True)
        (cache / f".lock-{name}").touch()
    return folder


@contextmanager
def running(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([folder / "llorch", "600"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_builds_that_nobody_needs_go(tmp_path: Path) -> None:
    """Kept: those named, and every build that a live process runs, with all that it unpacked; the rest goes."""
    versions, cache = tmp_path / "lib" / "llorch", tmp_path / "cache"
    old, busy, fresh = (version(versions, cache, build) for build in BUILDS)
    (cache / "mine").mkdir()
    with running(busy):
        removed = prune.prune(versions, cache, {fresh})
        gone = {f"{name}-{BUILDS[0]}" for name in ("0.1.0", "app")} | {f"torch-{'a' * 16}"}
        assert {path.name for path in removed} == gone
    assert sorted(p.name for p in versions.iterdir()) == [busy.name, fresh.name] and not old.exists()
    kept = {p.name for p in cache.iterdir() if not p.name.startswith(".")}
    assert kept == {"mine", *(f"{name}" for b in BUILDS[1:] for name in (f"app-{b}", f"torch-{(b * 6)[:16]}"))}
    prune.prune(versions, cache, {fresh})
    assert sorted(p.name for p in versions.iterdir()) == [fresh.name]


def test_half_made_folders_go_when_they_are_old(tmp_path: Path) -> None:
    """An upload or an unpacking of this hour is somebody's work; what a killed one left is swept."""
    cache = tmp_path / "cache"
    for name in (".upload-young1", ".upload-old111", ".tmp-torch-1"):
        (cache / name).mkdir(parents=True)
        (cache / name / "llorch").touch()
    for name in (".upload-old111", ".tmp-torch-1"):
        for path in (cache / name, cache / name / "llorch"):
            os.utime(path, (1, 1))
    prune.prune(tmp_path / "lib", cache, ())
    assert [path.name for path in cache.iterdir()] == [".upload-young1"]


def env(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "LLORCH_CACHE": str(home / ".cache" / "llorch")}


def test_uninstalling_ends_and_removes_what_is_ours(tmp_path: Path) -> None:
    """Processes that run from it are ended, links, versions and cache go; models stay, and so does a foreign file."""
    where = install.places(env(tmp_path), None)
    folder = version(where.versions, tmp_path / ".cache" / "llorch", BUILDS[0])
    where.bin_dir.mkdir(parents=True)
    (where.bin_dir / "llorch").symlink_to(folder / "llorch")
    (where.bin_dir / "other").symlink_to("/bin/sleep")
    models = tmp_path / ".local" / "share" / "llorch" / "models"
    models.mkdir(parents=True)
    with running(folder) as process:
        found = removal.plan(env(tmp_path), None, Data.KEEP)
        assert [user.pid for user in found.users] == [process.pid] and found.data == ()
        assert removal.carry_out(found, env(tmp_path), None) == []
        assert process.wait(10) != 0
    assert [p.name for p in where.bin_dir.iterdir()] == ["other"] and models.is_dir()
    assert not where.versions.exists() and not (tmp_path / ".cache").exists()
    purge = removal.plan(env(tmp_path), None, Data.PURGE)
    assert removal.carry_out(purge, env(tmp_path), None) == []
    assert not (tmp_path / ".local" / "share").exists()


def test_a_named_home_loses_only_what_is_ours(tmp_path: Path) -> None:
    """LLORCH_HOME may be a directory with other things in it: --purge takes the names that are llorch's."""
    home = tmp_path / "mine"
    for name in ("models", "workers", "photos"):
        (home / name).mkdir(parents=True)
    settings = {**env(tmp_path), "LLORCH_HOME": str(home)}
    found = removal.plan(settings, None, Data.PURGE)
    assert removal.carry_out(found, settings, None) == []
    assert [path.name for path in home.iterdir()] == ["photos"]
