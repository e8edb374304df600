"""Workers of one host divide its processors among those that compute."""

from __future__ import annotations

from pathlib import Path

from llorch.host.cores import COMPUTING_S, ENTRIES, FORGOTTEN_S, Cores


class Hands:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_threads_are_divided_among_those_that_compute(tmp_path: Path) -> None:
    """An idle worker takes nothing away; one that computes takes its part, and gives it back when it stops."""
    clock = Hands()
    one, other = Cores(tmp_path / "cores", clock), Cores(tmp_path / "cores", clock)
    assert one.share(8) == 8
    assert other.share(8) == 4
    assert one.share(8) == 4
    assert one.share(1) == 1
    clock.now += COMPUTING_S
    assert other.share(8) == 8


def test_entries_of_the_dead_are_taken_over(tmp_path: Path) -> None:
    """More workers than entries over time, but not at once: each still gets an entry; a full file harms nobody."""
    clock = Hands()
    crowd = [Cores(tmp_path / "cores", clock) for _ in range(ENTRIES)]
    assert all(cores.share(256) >= 1 for cores in crowd)
    late = Cores(tmp_path / "cores", clock)
    assert late.share(256) == 256
    clock.now += FORGOTTEN_S
    assert Cores(tmp_path / "cores", clock).share(256) == 256
    assert crowd[0].share(256) == 128
    assert crowd[1].share(256) == 85


def test_a_file_that_is_not_ours_alone_is_not_used(tmp_path: Path) -> None:
    """A file others may write, a link, or no file at all: the worker counts itself alone."""
    path = tmp_path / "cores"
    path.touch(0o600)
    path.chmod(0o666)
    (tmp_path / "link").symlink_to(path)
    for place in (path, tmp_path / "link", tmp_path / "missing" / "cores", None):
        assert Cores(place).share(4) == 4
    assert path.stat().st_size == 0
