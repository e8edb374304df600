"""Three models and room for two: mixed tasks as they come, and the same tasks one after another as naive FIFO does it.

Both are really run. As they come: with orchestratord's own settings. Naive FIFO: each task is sent when the one before
has ended, and no model has to stay any time, so that each task whose model is not loaded costs a swap at once.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from peers.cluster import Cluster, Daemon
from peers.pool_cli import PoolCli
from peers.progress import say

from llorch.base.errors import HostError

DEMO = Path(__file__).resolve().parents[3] / "llorch" / "assets" / "demo"
MODELS = ("story-a", "story-b", "story-c")
ROOM_FOR = 2.5
GAP_S = 2.0  # mean time between two arrivals
AT_ONCE = ("--residency-min-s", "0")
END_S = 300.0
ENDED = ("completed", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one way to send the tasks."""

    finished: int
    swaps: int
    evicted_live: int
    spawns: int
    spawn_to_first_token_s: float
    wait_max_s: float
    wall_s: float


@dataclass(frozen=True, slots=True)
class Found:
    """Both ways, and what a worker of one model takes by llorch's own measure."""

    batched: Run
    fifo: Run
    model_bytes: int
    room_for: float


def tasks(count: int, seed: int) -> list[tuple[float, dict[str, Any]]]:
    """(seconds since the one before, body), models at random."""
    chance = Random(seed)
    made = []
    for number in range(count):
        body = {"model": chance.choice(MODELS), "prompt": f"Once upon a time, on day {number},", "seed": number}
        made.append((chance.expovariate(1 / GAP_S), {**body, "max_tokens": chance.randint(40, 160)}))
    return made


def run(home: Path, count: int, seed: int) -> Found:
    """Measure the models, then both ways. Raises HostError."""
    measured = _measured(home)
    model_bytes = max(measured.values())
    limit_mib = int(ROOM_FOR * model_bytes) >> 20
    config = home / "llorch.toml"
    config.write_text(f"[pools.local.limits]\nmemory_mib = {limit_mib}\n")
    given = tasks(count, seed)
    say(f"{count} tasks as they come, {limit_mib} MiB for workers of up to {model_bytes >> 20} MiB")
    batched = _run(home, config, given, name="batched")
    say("the same tasks one after another")
    fifo = _run(home, config, given, name="fifo")
    return Found(batched, fifo, model_bytes, (limit_mib << 20) / model_bytes)


def _measured(home: Path) -> dict[str, int]:
    """Three models of the same files, each loaded once; what llorch saw them take."""
    pool = PoolCli(home)
    for name in MODELS:
        say(f"measuring {name}")
        pool.ask("models", "import", str(DEMO), "--id", name)
        pool.ask("worker", "spawn", "cpu", "--model", name)
        pool.ask("worker", "stop-all", "--grace", "5")
    rows = pool.ask("status")["models"]
    found = {row["id"]: row["measured_bytes"] for row in rows if row["id"] in MODELS}
    if len(found) != len(MODELS) or not all(found.values()):
        raise HostError(f"the pool tells no measured_bytes: {found}")
    return found


def _run(home: Path, config: Path, given: list[tuple[float, dict[str, Any]]], *, name: str) -> Run:
    state = home / name
    state.mkdir()
    cluster = Cluster(state, {"LLORCH_HOME": str(PoolCli(home).files.root)})
    began = time.monotonic()
    try:
        flags = ("--autospawn", "--config", str(config), "--log-format", "json")
        send, more = (_one_by_one, AT_ONCE) if name == "fifo" else (_as_they_come, ())
        daemon = cluster.orchestratord(*flags, *more)
        jobs = send(daemon, given)
        wall_s = time.monotonic() - began
        return _judge(daemon, jobs, wall_s)
    finally:
        cluster.close()
        PoolCli(home).ask("worker", "stop-all", "--grace", "2")


def _as_they_come(daemon: Daemon, given: list[tuple[float, dict[str, Any]]]) -> list[dict[str, Any]]:
    names = []
    for gap_s, body in given:
        time.sleep(gap_s)
        names.append(_submit(daemon, body))
    return [_ended(daemon, name) for name in names]


def _one_by_one(daemon: Daemon, given: list[tuple[float, dict[str, Any]]]) -> list[dict[str, Any]]:
    return [_ended(daemon, _submit(daemon, body)) for _, body in given]


def _submit(daemon: Daemon, body: dict[str, Any]) -> str:
    answer = daemon.post("/v2/tasks", body)
    if answer.status != 202:
        raise HostError(f"a task was not taken: {answer.body.decode(errors='replace')[:300]}")
    return str(answer.json["job_id"])


def _ended(daemon: Daemon, job_id: str) -> dict[str, Any]:
    give_up_at = time.monotonic() + END_S
    while time.monotonic() < give_up_at:
        job: dict[str, Any] = daemon.get(f"/v2/tasks/{job_id}").json
        if job["status"] in ENDED:
            return job
        time.sleep(0.05)
    raise HostError(f"{job_id} has not ended within {END_S:.0f} s")


def _judge(daemon: Daemon, jobs: list[dict[str, Any]], wall_s: float) -> Run:
    """By the jobs' records and by what orchestratord wrote into its log when it gave the commands."""
    lines = [json.loads(line) for line in daemon.log.splitlines() if line.startswith("{")]
    starts = {_worker(line): _log_time(line) for line in lines if line["message"] == "starting a worker"}
    stops = [(_worker(line), _log_time(line)) for line in lines if line["message"] == "stopping a worker"]
    found = re.search(r"^llorch_swaps_total (\S+)$", daemon.get("/metrics").body.decode(), re.MULTILINE)
    first: dict[str, float] = {}
    for job in jobs:
        if job["first_token_at"] is not None:
            at = _unix(job["first_token_at"])
            first[job["worker_id"]] = min(at, first.get(job["worker_id"], at))
    waits = [first[worker] - at for worker, at in starts.items() if worker in first]
    return Run(
        finished=sum(job["status"] == "completed" for job in jobs),
        swaps=round(float(found[1])) if found else 0,
        evicted_live=sum(_was_evicted(job, stops) for job in jobs),
        spawns=len(starts),
        spawn_to_first_token_s=median(waits) if waits else 0.0,
        wait_max_s=max((job["queue_wait_ms"] or 0) / 1000 for job in jobs),
        wall_s=wall_s,
    )


def _was_evicted(job: dict[str, Any], stops: list[tuple[str, float]]) -> bool:
    """Its worker was told to stop between dispatch and end; one that needed a second attempt lost its worker, too."""
    began = _unix(job["accepted_at"]) + (job["queue_wait_ms"] or 0) / 1000
    ended = _unix(job["ended_at"])
    return job["attempts"] != 1 or any(worker == job["worker_id"] and began < at < ended for worker, at in stops)


def _unix(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()


def _worker(line: dict[str, Any]) -> str:
    return str(line["worker"]).partition(" ")[0]


def _log_time(line: dict[str, Any]) -> float:
    """Unix seconds of `2026-01-02 03:04:05,678` in local time."""
    whole, _, ms = line["at"].partition(",")
    return time.mktime(time.strptime(whole, "%Y-%m-%d %H:%M:%S")) + int(ms) / 1000
