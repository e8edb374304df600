"""The doctor's look at processes: orphans of this home, records of the dead, ports that strangers took, old versions.

Only a process that carries this home's random id is ever signalled; other processes of llorch are listed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import llorch
from llorch.base.config import state_dir
from llorch.base.errors import HostError
from llorch.base.home import Home
from llorch.host import disk, process, strays
from llorch.host.strays import Carrier
from llorch.pool import health, records
from llorch.pool.findings import Finding, Level, Repair
from llorch.pool.records import HOME_ID_VARIABLE, WorkerRecord
from llorch.pool.side_by_side import side_by_side

FIX = "llorch-pool doctor --fix"
_SUFFIXES = (".token", ".status.json")


def look(home: Home, repair: Repair, env: Mapping[str, str], grace_s: float) -> list[Finding]:
    """Everything about processes; what may be reaped is, when told to mend."""
    disk.make_dir(home.workers_dir, mode=0o700)
    # The lock: a worker that is being spawned has a process before it has a record.
    with disk.locked(home.workers_lock_path):
        without_record = orphans(home, env)
        found = [*_dead_records(home, repair), *_damaged(home, repair), *_left_overs(home, repair)]
    # Not under the lock: they may take their grace time, and nobody can give them a record any more.
    reaped = reap(without_record, grace_s) if repair is Repair.MEND else {}
    found += [_orphan(carrier, reaped.get(carrier.pid)) for carrier in without_record]
    return [*found, *_workers(home), *_others(home)]


def orphans(home: Home, env: Mapping[str, str]) -> list[Carrier]:
    """Live processes that carry this home's id and belong to no live record; call with the workers' lock held."""
    home_id = records.known_home_id(home)
    if home_id is None:
        return []
    carriers = strays.find_by_environment(HOME_ID_VARIABLE, home_id)
    kept = {record.pid for record in records.load_all(home) if record.is_alive()}
    kept |= {pid for pid in (_orchestratord(env), os.getpid()) if pid is not None}
    ours = next((set(carrier.ancestors) for carrier in carriers if carrier.pid == os.getpid()), set())
    return [c for c in carriers if c.pid not in kept | ours and not kept & set(c.ancestors)]


def _orchestratord(env: Mapping[str, str]) -> int | None:
    """The pid of this user's orchestratord, as it wrote it down; it is no worker and has no worker's record."""
    try:
        told = json.loads((Path(state_dir(env)) / "orchestratord.json").read_text())
        pid, started = int(told["pid"]), float(told["start_time"])
        return pid if process.is_alive(pid, started) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _orphan(carrier: Carrier, result: process.Outcome | HostError | None) -> Finding:
    detail = f"process {carrier.pid} was started from here and has no record: {carrier.command}"
    if isinstance(result, HostError):
        return Finding("orphans", Level.PROBLEM, f"{detail} ({result.message})", f"kill {carrier.pid}", pid=carrier.pid)
    return Finding("orphans", Level.PROBLEM, detail, FIX, result is not None, carrier.pid)


def reap(found: list[Carrier], grace_s: float) -> dict[int, process.Outcome | HostError]:
    """End processes side by side, each within its grace; by pid what came of it."""

    def end(carrier: Carrier) -> process.Outcome:
        return process.terminate(carrier.pid, carrier.start_time, grace_s=grace_s)

    outcomes = side_by_side(end, found)
    return {carrier.pid: outcome for carrier, outcome in zip(found, outcomes, strict=True)}


def _dead_records(home: Home, repair: Repair) -> list[Finding]:
    found = []
    for record in records.load_all(home):
        if not record.is_alive():
            if repair is Repair.MEND:
                records.remove(home, record.worker_id)
            detail = f"worker {record.worker_id} has a record, but its process {record.pid} is gone"
            found.append(Finding("records", Level.WARNING, detail, FIX, repair is Repair.MEND))
    return found


def _damaged(home: Home, repair: Repair) -> list[Finding]:
    found = []
    for path in records.damaged(home):
        if repair is Repair.MEND:
            disk.set_aside(path)
        detail = f"the worker record {path} cannot be read; mending keeps it under another name"
        found.append(Finding("records", Level.WARNING, detail, FIX, repair is Repair.MEND))
    return found


def _left_overs(home: Home, repair: Repair) -> list[Finding]:
    """Token and status files whose worker has no record, and what killed writers left."""
    kept = {record.worker_id for record in records.load_all(home)}
    paths = list(home.workers_dir.glob(".*.tmp"))
    for suffix in _SUFFIXES:
        paths += [p for p in home.workers_dir.glob(f"*{suffix}") if p.name.removesuffix(suffix) not in kept]
    if repair is Repair.MEND:
        for path in paths:
            path.unlink(missing_ok=True)
    return [
        Finding("left-overs", Level.WARNING, f"{path} belongs to no worker", FIX, repair is Repair.MEND)
        for path in sorted(paths)
    ]


def _workers(home: Home) -> list[Finding]:
    """Recorded workers: who answers on their port, and with which version."""
    found = []
    alive = [record for record in records.load_all(home) if record.is_alive()]
    for record, status, body in health.ask_all(home, alive):
        if status == "Silent":
            found.append(_silent(record))
        version = body.get("version")
        if version is not None and version != llorch.__version__:
            detail = f"worker {record.worker_id} runs version {version}, this is {llorch.__version__}"
            found.append(Finding("versions", Level.WARNING, detail, _again(record)))
    return found


def _silent(record: WorkerRecord) -> Finding:
    """A worker that was ready and does not answer any more, or whose port another service answers on."""
    answer = health.ask(record.url)
    if answer is not None and answer.get("worker_id") not in (None, record.worker_id):
        detail = f"port {record.port} of worker {record.worker_id} is taken: {answer.get('worker_id')} answers there"
        return Finding("ports", Level.PROBLEM, detail, _again(record))
    detail = f"worker {record.worker_id} (process {record.pid}) lives but does not answer at {record.url}"
    return Finding("workers", Level.PROBLEM, detail, _again(record))


def _again(record: WorkerRecord) -> str:
    stop = f"llorch-pool worker stop {record.worker_id}"
    return f"{stop} && llorch-pool worker spawn {record.backend} --model {record.model}"


def _others(home: Home) -> list[Finding]:
    """Processes of llorch that are none of this home's workers."""
    found = []
    for carrier, service in strays.find_llorch(HOME_ID_VARIABLE, records.known_home_id(home) or ""):
        by = f", run by the service {service}" if service else ""
        detail = f"process {carrier.pid} is llorch, but not of this home{by}: {carrier.command}"
        found.append(Finding("others", Level.NOTE, detail, pid=carrier.pid))
    return found
