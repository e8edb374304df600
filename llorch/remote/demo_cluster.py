"""The demo's own little cluster: real daemons in a temporary home, all of which end with it, even if it is killed."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from llorch.base.errors import HostError
from llorch.client.sync import Client
from llorch.host import interrupts, process, runtime, strays

ID_VARIABLE = "LLORCH_DEMO_ID"
START_TIMEOUT_S = 90.0
STOP_GRACE_S = 5.0
LEFTOVER_WAIT_S = 5.0
POLL_S = 0.02
LOG_TAIL_LINES = 8
# What the daemons may keep of the caller's settings: where runtimes are, and how to debug.
_KEPT = ("LLORCH_CACHE", "LLORCH_TORCH", "LLORCH_QUIET", "LLORCH_DEBUG")


@dataclass(frozen=True, slots=True)
class Daemon:
    """A started daemon: its name for people, its process, its log."""

    name: str
    spawned: process.Spawned
    log_path: Path

    def is_alive(self) -> bool:
        """A process that ended but was not reaped yet counts as dead."""
        return process.is_alive(self.spawned.pid, self.spawned.start_time)


class Cluster:
    """An orchestratord and workers on free loopback ports; leaving the block stops all and removes the home."""

    def __init__(self) -> None:
        self.id = secrets.token_hex(8)
        self.url = ""
        self.leftover_count: int | None = None  # known once the block was left
        self._daemons: list[Daemon] = []
        self._home = tempfile.TemporaryDirectory(prefix="llorch-demo-")

    def __enter__(self) -> Self:
        self._home.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with interrupts.held_off():
            for daemon in reversed(self._daemons):
                self._end(daemon)
            self.leftover_count = self._count_leftovers()
            self._home.__exit__(kind, error, trace)

    @property
    def folder(self) -> Path:
        """The temporary home."""
        return Path(self._home.name)

    def start_orchestrator(self) -> None:
        """Start orchestratord and wait until it says where it listens."""
        daemon = self._start("orchestratord", "orchestratord", ["--port", "0"])
        record = self.folder / "state" / "orchestratord.json"
        self.wait_for(record.exists, "orchestratord to start", daemon)
        self.url = str(json.loads(record.read_text())["url"])
        # Loopback needs no key; a key of the caller's environment belongs to another orchestratord.
        self._client = Client(self.url, key="")

    @property
    def client(self) -> Client:
        """The SDK, connected to this cluster."""
        return self._client

    def start_workers(self, ids: list[str]) -> None:
        """Start one CPU worker with the embedded model per id and wait until all are ready."""
        daemons = []
        for worker_id in ids:
            flags = ["--model", "demo", "--port", "0", "--worker-id", worker_id, "--callback-url", self.url]
            daemons.append(self._start(worker_id, "worker", flags))
        self.wait_for(lambda: set(ids) <= self._ready_ids(), "the workers to load the model", *daemons)

    def kill(self, worker_id: str) -> None:
        """SIGKILL: no goodbye, no clean-up, as when the machine loses power."""
        daemon = next(d for d in self._daemons if d.name == worker_id)
        process.kill(daemon.spawned)

    def wait_for(self, condition: Callable[[], bool], what: str, *needed: Daemon) -> None:
        """Poll `condition`; HostError with the log's end when a needed daemon dies or it takes too long."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not condition():
            for daemon in needed:
                if not daemon.is_alive():
                    raise HostError(f"the demo's {daemon.name} stopped:\n{_tail(daemon.log_path)}")
            if time.monotonic() > deadline:
                raise HostError(f"the demo waited {START_TIMEOUT_S:.0f} s for {what}, in vain")
            time.sleep(POLL_S)

    def _ready_ids(self) -> set[str]:
        workers: list[dict[str, Any]] = self._client.workers()["workers"]
        return {str(worker["worker_id"]) for worker in workers if worker["state"] == "ready"}

    def _start(self, name: str, applet: str, flags: list[str]) -> Daemon:
        log_path = self.folder / f"{name}.log"
        argv = [*runtime.daemon_command(applet), *flags]
        with interrupts.held_off():  # between its start and its entry in the list nobody would end it
            spawned = process.spawn_detached(
                argv, log_path=log_path, env=self._environment(), lifetime=process.Lifetime.OURS
            )
            daemon = Daemon(name, spawned, log_path)
            self._daemons.append(daemon)
        return daemon

    def _environment(self) -> dict[str, str]:
        """A home of its own; every other llorch setting of the caller is switched off (empty means unset)."""
        unset = {name: "" for name in os.environ if name.startswith("LLORCH_") and name not in _KEPT}
        config = self.folder / "llorch.toml"
        config.touch()
        return {
            **unset,
            ID_VARIABLE: self.id,
            "LLORCH_HOME": str(self.folder / "home"),
            "LLORCH_STATE": str(self.folder / "state"),
            "LLORCH_CONFIG": str(config),
        }

    def _end(self, daemon: Daemon) -> None:
        process.terminate(daemon.spawned.pid, daemon.spawned.start_time, grace_s=STOP_GRACE_S)
        with contextlib.suppress(ChildProcessError):  # reaped already
            os.waitpid(daemon.spawned.pid, 0)

    def _count_leftovers(self) -> int:
        """Processes that still carry this demo's id; those that are just ending get a moment."""
        deadline = time.monotonic() + LEFTOVER_WAIT_S
        while (left := len(strays.find_by_environment(ID_VARIABLE, self.id))) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return left


def _tail(path: Path) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
    except OSError:
        return "(no log)"
