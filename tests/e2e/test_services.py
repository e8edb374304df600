"""Real daemons under a service manager's eyes: what they say on the notify socket, and when they fall silent."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import Cluster, stream, until
from tests.notified import NotifySocket, notify_socket

pytestmark = pytest.mark.e2e

WATCHDOG_S = 0.4


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NotifySocket]:
    with notify_socket(tmp_path, abstract=request.param == "abstract") as made:
        yield made


@pytest.fixture
def cluster(manager: NotifySocket, tmp_path: Path) -> Iterator[Cluster]:
    """Daemons that are watched every WATCHDOG_S seconds."""
    env = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}
    made = Cluster(tmp_path, env)
    yield made
    made.close()


def test_orchestratord_tells_its_manager(manager: NotifySocket, cluster: Cluster) -> None:
    """READY once it serves, WATCHDOG while its loop turns, RELOADING and READY on SIGHUP, STOPPING when it drains."""
    daemon = cluster.orchestratord()
    assert daemon.url in manager.said("READY")["STATUS"]
    manager.said("WATCHDOG", 5)
    os.kill(daemon.process.pid, signal.SIGHUP)
    assert int(manager.said("RELOADING", 5)["MONOTONIC_USEC"]) > 0
    manager.said("READY", 5)
    os.kill(daemon.process.pid, signal.SIGSTOP)  # a loop that hangs
    assert manager.silent_for("WATCHDOG", 3 * WATCHDOG_S)
    os.kill(daemon.process.pid, signal.SIGCONT)
    manager.said("WATCHDOG", 5)
    assert daemon.stop() == 0
    assert "draining" in manager.said("STOPPING", 5)["STATUS"]


def test_a_worker_tells_its_manager(manager: NotifySocket, cluster: Cluster) -> None:
    """It says how far the model is loaded, then READY; the watchdog is fed while it generates; STOPPING on SIGTERM."""
    worker = cluster.worker("--slots", "2")
    assert worker.url in manager.said("READY")["STATUS"]
    assert any(message.get("STATUS", "").startswith("loading") for message in manager.messages)
    job = {"job_id": "job-1", "prompt": "Once", "max_tokens": 100}
    with stream(worker.url, "POST", "/execute", job) as events:
        events.take(1)
        manager.said("WATCHDOG", 5)
        worker.process.send_signal(signal.SIGTERM)
        assert manager.said("STOPPING", 5)["STATUS"] == "draining 1 sequences"
        assert events.rest()[-1].data["type"] == "end"
    assert worker.process.wait(20) == 0


def test_a_log_file_of_orchestratord_takes_everything(tmp_path: Path) -> None:
    """With --log-file nothing goes to stderr; the file is the owner's only."""
    cluster, log = Cluster(tmp_path), tmp_path / "logs" / "orchestratord.log"
    try:
        daemon = cluster.orchestratord("--log-file", str(log))
        until(lambda: "listening" in log.read_text(), "the log has its first line")
        assert daemon.log == ""
        assert log.stat().st_mode & 0o777 == 0o600
    finally:
        cluster.close()
