"""`worker restart`: drain a worker, wait for its end, and start the same again with the program that runs this.

The new one has the id, port, model and settings of the old one, so that whoever knows its address finds it again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from urllib.parse import urlsplit

from llorch.base import worker_token
from llorch.base.commands import Parser
from llorch.base.errors import HostError, LlorchError
from llorch.base.home import Home, find_home
from llorch.host import interrupts, process
from llorch.pool import records, spawn
from llorch.pool.handover import LOOPBACK, Handover
from llorch.pool.output import print_json
from llorch.pool.records import WorkerRecord
from llorch.pool.terminal import Terminal
from llorch.pool.workers import add_grace

_STOP_GRACE_S = 5.0
_ANSWER_S = 5.0


def restart_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("worker", metavar="ID", help="a worker's id, or a beginning that only one has")
    parser.add_argument("--timeout", type=float, default=spawn.READY_TIMEOUT_S, metavar="S", help="for its start (600)")
    add_grace(parser)


def restart(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """JSON: {worker: record, old_pid, outcome}; outcome is how the old one ended. Exit 1 when the new one is not up."""
    home = find_home(os.environ)
    record = records.get(home, arguments.worker)
    wanted, given = _as_spawned(home, record)
    wanted.timeout = arguments.timeout
    spawn.downloaded(home, record.model)  # asked before anything is stopped
    with interrupts.as_keyboard_interrupt():
        outcome = _end(home, record, given.worker_token, arguments.grace)
        try:
            fresh = spawn.start(wanted, given, terminal)
        except LlorchError as error:
            raise HostError(f"worker {record.worker_id} was stopped and did not start again: {error.message}") from None
    if arguments.json:
        print_json({"worker": asdict(fresh), "old_pid": record.pid, "outcome": outcome.value})
    else:
        print(f"Worker {fresh.worker_id} is ready again at {fresh.url} (pid {record.pid} before, {fresh.pid} now)")
    return 0


def _as_spawned(home: Home, record: WorkerRecord) -> tuple[argparse.Namespace, Handover]:
    """The arguments and the handover that start the same worker."""
    parser = Parser(prog="worker restart", add_help=False, allow_abbrev=False)
    spawn.spawn_arguments(parser)
    parser.add_argument("--bind", default=LOOPBACK)
    parser.add_argument("--callback-url", default="")
    parser.add_argument("--token-file", default="")
    parser.add_argument("--insecure-lan", action="store_true")
    wanted = parser.parse_args(record.flags or _flags_of_old(record))
    token = ""
    path = records.token_path(home, record.worker_id)
    if path.exists():
        token = worker_token.read(path)
    return wanted, Handover(token, wanted.callback_url, wanted.bind, wanted.insecure_lan)


def _flags_of_old(record: WorkerRecord) -> Sequence[str]:
    """What the record of an older version tells; its other settings become the defaults."""
    note = f"{record.worker_id} was started by an older version: its slots and the like are the defaults now"
    print(note, file=sys.stderr)
    flags = ["--worker-id", record.worker_id, "--model", record.model, "--backend", record.backend]
    flags += ["--port", str(record.port), "--bind", urlsplit(record.url).hostname or LOOPBACK]
    return flags if record.gpu is None else [*flags, "--gpu", str(record.gpu)]


def _end(home: Home, record: WorkerRecord, token: str, grace_s: float) -> process.Outcome:
    """Drain it over HTTP, wait up to `grace_s` for its end, then stop it as `worker stop` does."""
    from llorch.client.worker import WorkerClient

    with contextlib.suppress(LlorchError):  # one that does not answer is stopped by signals
        WorkerClient(record.url, token=token or worker_token.find(os.environ)).drain(_ANSWER_S)
        if process.wait_for_end(record.pid, record.start_time, grace_s):
            records.remove(home, record.worker_id)
            return process.Outcome.STOPPED
    outcome = process.terminate(record.pid, record.start_time, grace_s=_STOP_GRACE_S)
    records.remove(home, record.worker_id)
    return outcome
