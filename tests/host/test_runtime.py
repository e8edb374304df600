"""Runtimes from sources need no unpacking; directories of the cache are complete or absent."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

import llorch
from llorch.base.errors import HostError
from llorch.host import cache, runtime


def test_from_sources_nothing_is_unpacked() -> None:
    """Every question is answered from the package and the interpreter's own libraries."""
    path = list(sys.path)
    assert runtime.ensure("torch") == runtime.ensure("net") == Path(llorch.__file__).parent.parent
    assert sys.path == path
    assert runtime.assets_dir() == Path(llorch.__file__).parent / "assets"
    assert runtime.daemon_command("llorch-candled") == [sys.executable, "-m", "llorch", "llorch-candled"]
    runtime.become_one_folder(["llorch"])  # returns, for there is nothing to become


def test_version_facts_do_not_import_torch() -> None:
    """`self version` must be quick."""
    facts = runtime.version_facts()
    assert list(facts) == ["version", "build_id", "protocol", "python", "torch", "backends"]
    assert facts["version"] == llorch.__version__
    assert facts["build_id"] == "source"


def fill_with(text: str):
    """A filler that writes one file."""

    def fill(place: Path) -> None:
        (place / "file").write_text(text)

    return fill


def test_a_directory_is_filled_once(tmp_path: Path) -> None:
    """Whoever comes second finds it and does nothing."""
    cache.place(tmp_path / "c" / "x", "thing", 1, fill_with("first"))
    cache.place(tmp_path / "c" / "x", "thing", 1, fill_with("second"))
    assert (tmp_path / "c" / "x" / "file").read_text() == "first"


def test_many_at_once_fill_it_once(tmp_path: Path) -> None:
    """One fills, the others wait until it is complete."""
    filled, seen = [], []

    def fill(place: Path) -> None:
        filled.append(1)
        fill_with("whole")(place)

    def want() -> None:
        cache.place(tmp_path / "x", "thing", 1, fill)
        seen.append((tmp_path / "x" / "file").read_text())

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(filled), seen) == (1, ["whole"] * 4)


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """The next one cleans up before it fills, its own name only."""
    (tmp_path / ".tmp-x-dead").mkdir()
    (tmp_path / ".tmp-xy-other").mkdir()
    cache.place(tmp_path / "x", "thing", 1, fill_with("a"))
    left = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".tmp"))
    assert left == [".tmp-xy-other"]


def test_a_failed_filling_leaves_nothing(tmp_path: Path) -> None:
    """Neither the directory nor a half of it; the reason is one line."""

    def fill(place: Path) -> None:
        (place / "half").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(HostError, match=r"unpacking the thing into .* failed: No space left"):
        cache.place(tmp_path / "x", "thing", 1, fill)
    assert [path.name for path in tmp_path.iterdir()] == [".lock-x"]


def test_no_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    """The line says how much is free and how much is needed."""
    with pytest.raises(HostError, match=r"has \d+ MB free, the thing needs \d+ MB"):
        cache.place(tmp_path / "x", "thing", 1 << 60, fill_with("a"))
    assert not (tmp_path / "x").exists()


def test_an_unwritable_cache_is_one_line(tmp_path: Path) -> None:
    """It names the directory and the way out; a file in the way stops root, too."""
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match=r"cannot write the cache .*set LLORCH_CACHE"):
        cache.place(tmp_path / "file" / "sub" / "x", "thing", 1, fill_with("a"))


def test_a_noexec_cache_is_refused() -> None:
    """Libraries could not be loaded from there; better said now than by the loader."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    places = [Path(fields[1]) for fields in mounts if "noexec" in fields[3].split(",")]
    if not places:
        pytest.skip("no file system is mounted noexec here")
    with pytest.raises(HostError, match="noexec"):
        cache._check_room(places[0], "thing", 1)


def test_an_override_without_a_fitting_torch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Better than torch's own words about develop installs."""
    monkeypatch.setenv("LLORCH_TORCH", str(tmp_path))
    with pytest.raises(HostError, match="holds no torch for Python 3"):
        runtime._override("torch")
    assert runtime._override("net") is None
