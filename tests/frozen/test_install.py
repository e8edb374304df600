"""`self install`: one directory per build, links that move in one step, independent of the file it came from."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from bare_host import Host

from llorch import applets
from tests.daemons import until

pytestmark = pytest.mark.frozen


def test_it_lays_out_one_directory_and_links_the_roles(host: Host) -> None:
    """PREFIX/lib/llorch/<version>-<build id>/ and PREFIX/bin; again changes nothing."""
    prefix = host.folder / "prefix"
    first = host.run("llorch", "self", "install", "--prefix", prefix)
    assert first.returncode == 0, first.stderr
    assert "not on your PATH" in first.stdout
    assert sorted(path.name for path in (prefix / "bin").iterdir()) == sorted(applets.links())
    for name in applets.links():
        assert (prefix / "share" / "man" / "man1" / f"{name}.1").read_text().startswith(".TH")
    (folder,) = (prefix / "lib" / "llorch").iterdir()
    before = (folder / "llorch").stat().st_ino
    assert host.run("llorch", "self", "install", "--prefix", prefix).returncode == 0
    assert [path.name for path in (prefix / "lib" / "llorch").iterdir()] == [folder.name]
    assert (folder / "llorch").stat().st_ino == before
    listed = host.run(prefix / "bin" / "llorch-pool", "worker", "list")
    assert (listed.returncode, list((host.folder / "tmp").iterdir())) == (0, [])


def test_links_go_to_the_users_bin_by_default(host: Host) -> None:
    """LLORCH_BIN_DIR, else ~/.local/bin; nothing is said when it is on PATH."""
    bin_dir = host.folder / "elsewhere"
    done = host.run(host.program, "self", "install", LLORCH_BIN_DIR=str(bin_dir), PATH=str(bin_dir))
    assert "PATH" not in done.stdout
    assert (bin_dir / "llorch").resolve().is_relative_to(host.folder / "home" / ".local" / "lib" / "llorch")
    assert host.run(host.program, "self", "install").returncode == 0
    assert (host.folder / "home" / ".local" / "bin" / "orchestratord").is_symlink()


def test_an_installed_copy_needs_nothing_else(host: Host) -> None:
    """The file it came from is gone and the cache empty: it unpacks from itself, and can install itself again."""
    origin = host.folder / "llorch"
    os.link(host.program, origin)
    host.run(origin, "self", "install", "--prefix", host.folder / "a")
    origin.unlink()
    installed = host.folder / "a" / "bin" / "llorch"
    assert host.run(installed, "self", "runtimes", "unpack", "net").returncode == 0
    shutil.rmtree(host.cache)
    assert host.run(installed, "self", "install", "--prefix", host.folder / "b").returncode == 0
    again = host.run(host.folder / "b" / "bin" / "llorch", "self", "runtimes", "unpack", "net")
    assert again.returncode == 0, again.stderr


def test_a_file_in_the_way_is_not_overwritten(host: Host) -> None:
    """A link is replaced, anything else is the user's."""
    bin_dir = host.folder / "prefix" / "bin"
    bin_dir.mkdir(parents=True)
    (bin_dir / "llorch").write_text("mine")
    done = host.run("llorch", "self", "install", "--prefix", host.folder / "prefix")
    assert done.returncode == 1
    assert "is not a link" in done.stderr
    assert Path(bin_dir / "llorch").read_text() == "mine"


def another_build(folder: Path, place: Path, build_id: str) -> Path:
    """A copy of an installed version that takes itself for another build; its program."""
    shutil.copytree(folder, place, symlinks=True)
    facts = place / "_internal" / "llorch-build.json"
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "build_id": build_id}))
    return place / "llorch"


def test_the_version_before_stays_and_older_ones_go_unless_they_run(host: Host) -> None:
    """Three builds: the newest and the one before are kept; the oldest, too, as long as a process runs from it."""
    prefix = host.folder / "prefix"
    versions = prefix / "lib" / "llorch"
    assert host.run("llorch", "self", "install", "--prefix", prefix).returncode == 0
    (first,) = versions.iterdir()
    second = another_build(first, host.folder / "second", "b" * 12)
    third = another_build(first, host.folder / "third", "c" * 12)
    running = host.start(prefix / "bin" / "orchestratord", "--port", "0")
    try:
        until(lambda: list(host.folder.rglob("orchestratord.json")), "the old version runs")
        assert host.run(second, "self", "install", "--prefix", prefix).returncode == 0
        assert (versions / "previous").resolve() == first
        assert host.run(third, "self", "install", "--prefix", prefix).returncode == 0
        assert first.is_dir() and (versions / "previous").resolve().name == f"0.1.0-{'b' * 12}"
    finally:
        running.terminate()
        running.communicate(timeout=30)
    done = host.run(third, "self", "install", "--prefix", prefix)
    assert f"removed {first}" in done.stdout and not first.exists()
    gone = host.run(prefix / "bin" / "llorch", "self", "uninstall", "--prefix", prefix, "--purge", "--json")
    assert gone.returncode == 0, gone.stderr
    assert [path for path in prefix.rglob("*") if not path.is_dir()] == [] and not host.cache.exists()
