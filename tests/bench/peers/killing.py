"""kill -9 at random: workers, the pool CLI while it spawns or downloads, orchestratord; then `doctor --fix`, a count.

What is left is counted without llorch's help: processes by the home in their environment, files by their names.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from peers.cluster import Cluster, Daemon, until
from peers.pool_cli import PoolCli
from peers.progress import say
from peers.swapping import DEMO

from llorch.base.errors import HostError
from tests.pool.hub import Hub, Repository, serve

KINDS = ("worker", "spawn", "download", "orchestratord")
REPO = "llorch/bench-story"
MODEL = "bench-story"
WORKERS_MAX = 4
SETTLE_S = 120.0
START_S = 60.0


@dataclass
class Found:
    """`reaped` and `removed` are what doctor did; `downloads_cut` left a part of a file behind."""

    kills: int = 0
    orphans: int = 0
    reaped: int = 0
    removed: int = 0
    downloads_cut: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)


def run(home: Path, kills: int, seed: int) -> Found:
    """All kills, the mending and the count. Raises HostError."""
    hub = Hub({REPO: Repository(DEMO)})
    cluster = Cluster(home)
    with serve(hub):
        killer = Killer(home, cluster, hub, Random(seed))
        try:
            killer.kill_all(kills)
            killer.mend()
            return killer.found
        finally:
            cluster.close()
            for pid in processes(home):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def processes(home: Path) -> dict[int, str]:
    """Every live process that was started for this home: pid and command line."""
    wanted = f"HOME={home}".encode()
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (
                    (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
        except OSError:
            continue  # it ended, or is another user's
    return found


class Killer:
    """One home under fire."""

    def __init__(self, home: Path, cluster: Cluster, hub: Hub, chance: Random) -> None:
        self._home = home
        self._cluster = cluster
        self._hub = hub
        self._chance = chance
        self._pool = PoolCli(home, {"HF_ENDPOINT": hub.url, "LLORCH_STATE": str(cluster.state)})
        self._daemon: Daemon | None = None
        self._usual_s: dict[tuple[str, ...], float] = {}
        self.found = Found()

    def kill_all(self, kills: int) -> None:
        """In a random order, each kind as often as the others."""
        order = [KINDS[number % len(KINDS)] for number in range(kills)]
        self._chance.shuffle(order)
        actions: dict[str, Callable[[], None]] = {
            "worker": self._kill_worker,
            "spawn": self._kill_spawn,
            "download": self._kill_download,
            "orchestratord": self._kill_orchestratord,
        }
        self._start_orchestratord()
        for kind in order:
            actions[kind]()
            self.found.kills += 1
            self.found.by_kind[kind] += 1
            say(f"kill {self.found.kills} of {kills}: {kind}")

    def _records(self) -> dict[str, int]:
        """Worker id and pid by the records' files; what cannot be read counts as dead."""
        found = {}
        for path in self._pool.files.workers_dir.glob("*.json"):
            if not path.name.endswith(".status.json") and path.name[0] != ".":
                try:
                    found[path.stem] = int(json.loads(path.read_text())["pid"])
                except (OSError, ValueError, KeyError):
                    found[path.stem] = 0
        return found

    def _live(self) -> list[int]:
        ours = processes(self._home)
        return [pid for pid in self._records().values() if pid in ours]

    def _kill_worker(self) -> None:
        """Any of those that run, ready or not."""
        live = self._live()
        if not live:
            self._pool.ask("worker", "spawn", "cpu", "--model", "demo")
            live = self._live()
        os.kill(self._chance.choice(live), signal.SIGKILL)

    def _kill_spawn(self) -> None:
        """The command: at any moment, or just when its worker's process has begun and may have no record yet."""
        for pid in self._live()[WORKERS_MAX:]:
            os.kill(pid, signal.SIGKILL)  # memory is finite; they stay on record as dead ones
        words = ("worker", "spawn", "cpu", "--model", "demo")
        if self._chance.random() < 0.5:
            self._kill_command(*words)
            return
        before = set(processes(self._home))
        process = self._pool.start(*words)
        started = {process.pid}
        self._until(lambda: set(processes(self._home)) - before - started or process.poll() is not None, "a worker")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _kill_download(self) -> None:
        """A fresh one or one that goes on; half of them while the server holds the weights back."""
        if self._chance.random() < 0.3:
            shutil.rmtree(self._pool.files.models_dir / MODEL, ignore_errors=True)
        self._hub.hold = threading.Event() if self._chance.random() < 0.5 else None
        try:
            self._kill_command("models", "download", REPO, "--force")
        finally:
            if self._hub.hold is not None:
                self._hub.hold.set()
            self._hub.hold = None
        self.found.downloads_cut += any(self._partial_dir.iterdir()) if self._partial_dir.is_dir() else 0

    @property
    def _partial_dir(self) -> Path:
        return self._pool.files.models_dir / MODEL / ".partial"

    def _kill_command(self, *words: str) -> None:
        """At any moment of the time it takes when nobody kills it; one that was quicker today does not count."""
        usual_s = self._usual_s.get(words)
        if usual_s is None:
            usual_s = self._usual_s[words] = self._undisturbed_s(words)
        while True:
            process = self._pool.start(*words)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self._chance.uniform(0.0, usual_s))
                continue
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return

    def _undisturbed_s(self, words: tuple[str, ...]) -> float:
        hold, self._hub.hold = self._hub.hold, None
        began = time.monotonic()
        code = self._pool.start(*words).wait(START_S)
        self._hub.hold = hold
        if code:
            raise HostError(f"llorch-pool {' '.join(words)} ends with {code}")
        return time.monotonic() - began

    def _kill_orchestratord(self) -> None:
        """While it loads a model, serves from it, or unloads it; then another begins on the same state."""
        assert self._daemon is not None
        self._daemon.post("/v2/tasks", {"model": "demo", "prompt": "Once", "max_tokens": self._chance.randint(8, 200)})
        time.sleep(self._chance.uniform(0.0, 2.5))
        self._daemon.kill()
        self._start_orchestratord()

    def _start_orchestratord(self) -> None:
        settings = ("--idle-ttl-s", "1.5", "--residency-min-s", "1", "--grace-s", "1")
        self._daemon = self._cluster.orchestratord("--autospawn", *settings)

    def mend(self) -> None:
        """Let commands that were under way end, mend, and count; then stop everything, and count again."""
        self._until(lambda: not self._commands(), "commands of a killed orchestratord end")
        told = self._pool.ask("doctor", "--fix", "--grace", "5", fail_ok=True)
        mended = [row for row in told["findings"] if row["fixed"]]
        self.found.reaped = sum(row["check"] == "orphans" for row in mended)
        self.found.removed = len(mended) - self.found.reaped
        for row in told["findings"]:
            say(f"doctor: {'fixed' if row['fixed'] else row['level']} {row['check']}: {row['detail'][:150]}")
        self._until(lambda: not self._commands(), "commands of orchestratord end")
        self._count(self._strangers(), "processes without a record")
        self._count(self._left_files(), "files of nobody")
        self._go_on()
        assert self._daemon is not None
        self._daemon.stop()
        self._pool.ask("worker", "stop-all", "--grace", "2")
        self._count(list(processes(self._home).values()), "processes at the end")

    def _commands(self) -> list[str]:
        return [line for line in processes(self._home).values() if " worker --" not in line and "llorch-pool" in line]

    def _strangers(self) -> list[str]:
        """Neither orchestratord nor a worker on record, nor what orchestratord runs just now."""
        assert self._daemon is not None
        recorded = set(self._records().values()) | {self._daemon.pid, self._daemon.process.pid}
        commands = set(self._commands())
        return [line for pid, line in processes(self._home).items() if pid not in recorded and line not in commands]

    def _left_files(self) -> list[str]:
        """Records of the dead, what belongs to no record, and temporary files of killed writers."""
        files, ours = self._pool.files, processes(self._home)
        records = self._records()
        left = [f"{name}.json" for name, pid in records.items() if pid not in ours]
        for suffix in (".token", ".status.json"):
            paths = files.workers_dir.glob(f"*{suffix}")
            left += [path.name for path in paths if path.name.removesuffix(suffix) not in records]
        for folder in (files.root, self._cluster.state):
            left += [str(path) for path in folder.rglob("*") if path.suffix == ".tmp" or ".tmp-" in path.name]
        return left

    def _go_on(self) -> None:
        """A download that was cut stays for a day, for whoever goes on with it: do, and nothing of it may be left."""
        done = self._pool.ask("models", "download", REPO)
        if done.get("type") != "done":
            raise HostError(f"the download did not end: {done}")
        partial = self._pool.files.models_dir.rglob(".partial/*")
        self._count([str(path) for path in partial], "of a download that was gone on with")

    def _count(self, left: list[str], what: str) -> None:
        self.found.orphans += len(left)
        for line in left:
            say(f"ORPHAN ({what}): {line}")

    def _until(self, condition: Callable[[], Any], what: str) -> None:
        until(condition, what, SETTLE_S)
