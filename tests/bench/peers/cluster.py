"""The daemons of the tests, for benchmarks: started on free ports, killed at will, reaped in any case."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from daemons import Cluster, Daemon, environment, free_port, until, workers_ready

__all__ = ["Cluster", "Daemon", "environment", "free_port", "until", "workers_ready"]
