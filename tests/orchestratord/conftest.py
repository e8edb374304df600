"""A cluster per test: one orchestratord as a real process, fake workers in this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from daemons import Cluster, Daemon, workers_ready
from fakes import FakeWorker


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A fresh home; every process started in it is reaped."""
    made = Cluster(tmp_path)
    yield made
    made.close()


@pytest.fixture
def orchestratord(cluster: Cluster) -> Daemon:
    """A running orchestratord without workers."""
    return cluster.orchestratord()


@pytest.fixture
def workers(request: pytest.FixtureRequest) -> Iterator[Callable[..., FakeWorker]]:
    """Start fake workers: `workers(orchestratord, worker_id=..., ...)`."""
    made: list[FakeWorker] = []

    def start(orchestratord: Daemon | None, **settings: Any) -> FakeWorker:
        worker = FakeWorker(**{"worker_id": f"fake-{len(made) + 1}", **settings})
        worker.start(orchestratord.url if orchestratord is not None else None)
        made.append(worker)
        if orchestratord is not None:
            workers_ready(orchestratord, len(made))
        return worker

    yield start
    for worker in made:
        worker.stop()
