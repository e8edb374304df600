"""The daemons of the tests, for benchmarks: started on free ports, killed at will, reaped in any case."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peers.child import FOLDERS

from llorch.base.errors import HostError

sys.path.append(str(Path(__file__).resolve().parents[2]))

from daemons import Cluster, Daemon, environment, free_port, until, workers_ready

__all__ = ["Cluster", "Daemon", "environment", "free_port", "pacing_worker", "until", "workers_ready"]


@contextmanager
def pacing_worker(orchestratord: str, tokens_per_s: float) -> Iterator[str]:
    """The URL of a worker that computes nothing, announced to this orchestratord. Raises HostError."""
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("pacing_worker.py")), orchestratord, str(tokens_per_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, FOLDERS))},
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise HostError("the pacing worker did not start")
        yield json.loads(line)["url"]
        process.stdin.close()
