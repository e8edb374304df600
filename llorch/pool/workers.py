"""`worker list|stop|stop-all|cleanup`: what runs on this host, and ending it without leaving anything behind."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from typing import Any

from llorch.base.errors import HostError
from llorch.base.home import Home, find_home
from llorch.host import disk, process, strays
from llorch.pool import health, listing, records
from llorch.pool.output import host_name, print_json
from llorch.pool.records import HOME_ID_VARIABLE, WorkerRecord
from llorch.pool.side_by_side import side_by_side
from llorch.pool.terminal import Terminal

GRACE_S = 30.0


def worker_body(record: WorkerRecord, status: str, body: dict[str, Any]) -> dict[str, Any]:
    """The JSON of one worker: its record, `status`, and `health` as the worker answered (empty when it did not)."""
    return {**asdict(record), "status": status, "health": body}


def list_workers(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """JSON: {host, workers: [worker_body]}."""
    home = find_home(os.environ)
    rows = health.ask_all(home, records.load_all(home))
    if arguments.json:
        print_json({"host": host_name(), "workers": [worker_body(*row) for row in rows]})
    else:
        cells = [(r.worker_id, r.backend, r.model, str(r.port), str(r.pid), status) for r, status, _ in rows]
        print("\n".join(listing.workers(cells)))
    return 0


def add_grace(parser: argparse.ArgumentParser) -> None:
    """--grace: how long a worker that is ended may go on."""
    parser.add_argument(
        "--grace",
        type=_seconds,
        default=GRACE_S,
        metavar="S",
        help=f"seconds a worker may take to finish its work before it is killed (default {GRACE_S:g})",
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 3600:
        raise ValueError
    return value


def stop_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("worker", metavar="ID", help="a worker's id, or a beginning that only one has")
    add_grace(parser)


def stop(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """JSON: {stopped: [{worker_id, outcome}], failed: [{worker_id, error}]}."""
    home = find_home(os.environ)
    return _stop([records.get(home, arguments.worker)], home, arguments)


def stop_all_arguments(parser: argparse.ArgumentParser) -> None:
    add_grace(parser)


def stop_all(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Stop every worker at once, each within its grace. JSON as in `stop`."""
    home = find_home(os.environ)
    code = _stop(records.load_all(home), home, arguments)
    for path in records.damaged(home):
        disk.set_aside(path)
    return code


def _stop(found: list[WorkerRecord], home: Home, arguments: argparse.Namespace) -> int:
    outcomes = end_all(home, found, arguments.grace)
    failed = [(worker_id, result) for worker_id, result in outcomes if isinstance(result, HostError)]
    stopped = [(worker_id, result.value) for worker_id, result in outcomes if isinstance(result, process.Outcome)]
    if arguments.json:
        print_json(
            {
                "stopped": [{"worker_id": worker_id, "outcome": outcome} for worker_id, outcome in stopped],
                "failed": [{"worker_id": worker_id, "error": error.message} for worker_id, error in failed],
            }
        )
        return 1 if failed else 0
    for worker_id, outcome in stopped:
        print(f"Worker {worker_id} {_WORDS[outcome]}")
    for worker_id, error in failed:
        print(f"Worker {worker_id} not stopped: {error.message}")
    if not outcomes:
        print("No workers")
    return 1 if failed else 0


_WORDS = {
    process.Outcome.STOPPED.value: "stopped",
    process.Outcome.KILLED.value: "killed (it did not stop in time)",
    process.Outcome.NOT_RUNNING.value: "was not running; its record is removed",
}


def end_all(home: Home, found: list[WorkerRecord], grace_s: float) -> list[tuple[str, process.Outcome | HostError]]:
    """End the processes side by side and remove what belonged to each; a failure keeps the record."""

    def end(record: WorkerRecord) -> process.Outcome:
        outcome = process.terminate(record.pid, record.start_time, grace_s=grace_s)
        records.remove(home, record.worker_id)
        return outcome

    outcomes = side_by_side(end, found)
    return [(record.worker_id, outcome) for record, outcome in zip(found, outcomes, strict=True)]


def cleanup(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """JSON: {removed: [worker_id], damaged: [file name], strays: [{pid, command}]}; exit 1 when there are strays."""
    home = find_home(os.environ)
    disk.make_dir(home.workers_dir)
    with disk.locked(home.workers_lock_path):
        found = records.load_all(home)
        dead = [record for record in found if not record.is_alive()]
        for record in dead:
            records.remove(home, record.worker_id)
        aside = [disk.set_aside(path).name for path in records.damaged(home)]
        _remove_left_overs(home, {record.worker_id for record in found if record not in dead})
        stray = _strays(home, {record.pid for record in found})
    if arguments.json:
        rows = [{"pid": pid, "command": command} for pid, command in stray]
        print_json({"removed": [record.worker_id for record in dead], "damaged": aside, "strays": rows})
        return 1 if stray else 0
    for record in dead:
        print(f"Removed the record of {record.worker_id} (process {record.pid} is gone)")
    for name in aside:
        print(f"Set aside a damaged record as {name}")
    for pid, command in stray:
        print(f"Process {pid} was started from here but has no record: {command}")
    if not (dead or aside or stray):
        print("Nothing to clean up")
    return 1 if stray else 0


def _remove_left_overs(home: Home, keep: set[str]) -> None:
    """Token and status files whose worker has no record, and what killed writers left."""
    for path in home.workers_dir.glob(".*.tmp"):
        path.unlink(missing_ok=True)
    for suffix in (".token", ".status.json"):
        for path in home.workers_dir.glob(f"*{suffix}"):
            if path.name.removesuffix(suffix) not in keep:
                path.unlink(missing_ok=True)


def _strays(home: Home, recorded: set[int]) -> list[tuple[int, str]]:
    """Live processes that carry this home's id and have no record; children of recorded ones are not strays."""
    home_id = records.home_id(home)
    carriers = strays.find_by_environment(HOME_ID_VARIABLE, home_id)
    return [(c.pid, c.command) for c in carriers if c.pid not in recorded and not recorded & set(c.ancestors)]
