"""A bench per test: a real orchestratord, shared by the tests of a file, and fake workers with a model of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from daemons import Cluster, Daemon
from job_bench import Bench


@pytest.fixture(scope="module")
def shared_orchestratord(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One orchestratord for a whole file."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster.orchestratord()
    cluster.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A fresh home of its own; every process started in it is reaped."""
    made = Cluster(tmp_path)
    yield made
    made.close()


@pytest.fixture
def benches() -> Iterator[Callable[[Daemon], Bench]]:
    """Make benches on other orchestratords than the shared one."""
    made: list[Bench] = []

    def make(orchestratord: Daemon) -> Bench:
        made.append(Bench(orchestratord))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def bench(shared_orchestratord: Daemon, benches: Callable[[Daemon], Bench]) -> Bench:
    """This test's bench on the shared orchestratord."""
    return benches(shared_orchestratord)
