"""Files that are never seen half written, locks that die with their holder, links that are never symbolic."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llorch.base.errors import HostError, TryLater
from llorch.host import disk

ROOT = Path(__file__).resolve().parents[2]


def test_writing_replaces_the_whole_file(tmp_path: Path) -> None:
    """The new bytes are there, with the mode asked for, and no temporary file is left."""
    path = tmp_path / "a.json"
    disk.write_atomic(path, b"old")
    disk.write_atomic(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    """The path is named, and no temporary file is left."""
    with pytest.raises(HostError, match=r"absent/a\.json"):
        disk.write_json(tmp_path / "absent" / "a.json", {})


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    """SIGKILL at any moment: a reader sees one of the two versions, whole."""
    path = tmp_path / "a.json"
    disk.write_json(path, {"n": "x" * 5000})
    program = (
        "import pathlib, sys; from llorch.host import disk\n"
        "n = 0\n"
        "while True:\n"
        "    disk.write_json(pathlib.Path(sys.argv[1]), {'n': str(n % 10) * 5000})\n"
        "    print(n, flush=True); n += 1"
    )
    for rounds in (1, 3, 5):
        argv = [sys.executable, "-c", program, str(path)]
        writer = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE)
        assert writer.stdout is not None
        for _ in range(rounds):
            writer.stdout.readline()
        writer.kill()
        writer.wait()
        writer.stdout.close()
        text = path.read_text()
        assert text.startswith('{\n  "n": "') and text.endswith('"\n}\n') and len(text) == 5014


def test_a_lock_is_exclusive_and_says_that_it_waits(tmp_path: Path) -> None:
    """The second holder is told once that it waits, and gives up in time."""
    told: list[int] = []
    with disk.locked(tmp_path / "lock"), pytest.raises(TryLater):  # noqa: SIM117
        with disk.locked(tmp_path / "lock", timeout_s=0.2, waiting=lambda: told.append(1)):
            pass
    assert told == [1]


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    """After SIGKILL of the holder the lock is free."""
    program = (
        "import pathlib, sys, time; from llorch.host import disk\n"
        "with disk.locked(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    argv = [sys.executable, "-c", program, str(tmp_path / "lock")]
    holder = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with disk.locked(tmp_path / "lock", timeout_s=1.0):
        pass


def test_a_copy_shares_or_equals_and_is_no_link(tmp_path: Path) -> None:
    """A hard link on the same file system; the content is the same in any case."""
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"x" * 100_000)
    disk.link_or_copy(source, target)
    assert target.samefile(source)
    assert not target.is_symlink()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_across_file_systems_it_is_a_copy(tmp_path: Path) -> None:
    """Where no hard link is possible the bytes are copied."""
    source = Path("/dev/shm") / f"llorch-test-{tmp_path.name}-{tmp_path.parent.name}"
    source.write_bytes(b"x" * 3_000_000)
    try:
        disk.link_or_copy(source, tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == source.read_bytes()
        with pytest.raises(HostError):
            disk.link_or_copy(source, tmp_path / "b")
    finally:
        source.unlink()


def test_a_damaged_file_is_kept(tmp_path: Path) -> None:
    """Setting aside renames, so nothing is lost."""
    (tmp_path / "a").write_text("hm")
    assert disk.set_aside(tmp_path / "a").read_text() == "hm"
    assert not (tmp_path / "a").exists()


def test_free_space_of_a_place_that_does_not_exist_yet(tmp_path: Path) -> None:
    """The nearest existing parent answers."""
    assert disk.free_bytes(tmp_path / "a" / "b") > 0
    assert disk.total_bytes(tmp_path / "a" / "b") >= disk.free_bytes(tmp_path / "a" / "b")
