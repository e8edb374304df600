"""`llorch status`: the cluster at a glance, as orchestratord sees it."""

from __future__ import annotations

import argparse
from typing import Any

from llorch.remote import orchestrator, skew, terminal


def status_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch status`."""
    orchestrator.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def status(arguments: argparse.Namespace) -> int:
    """Health counts and the workers."""
    client = orchestrator.connect(arguments)
    health, workers = client.health(), client.workers().get("workers", [])
    _tell_skew(workers)
    if arguments.json:
        terminal.write_json({"orchestrator": client.url, "health": health, "workers": workers})
        return 0
    counts = ", ".join(f"{health.get(key, '-')} {key.replace('_', ' ')}" for key in ("pools", "workers", "queue_depth"))
    print(f"{client.url}: {health.get('status', '-')} ({counts})")
    if workers:
        keys = ("worker_id", "model", "backend", "state", "url")
        rows = [
            [
                *(terminal.shown(worker.get(key)) for key in keys),
                f"{terminal.shown(worker.get('slots_busy'))}/{terminal.shown(worker.get('slots_total'))}",
            ]
            for worker in workers
        ]
        terminal.write_table(["WORKER", "MODEL", "BACKEND", "STATE", "URL", "SLOTS"], rows)
    return 0


def _tell_skew(workers: list[dict[str, Any]]) -> None:
    """A line on stderr for each worker that runs another version or protocol than we do."""
    for worker in workers:
        what, version, protocol = f"worker {worker.get('worker_id')}", worker.get("version"), worker.get("protocol")
        warning = skew.difference(what, version, protocol, None, "llorch pool upgrade --host ITS-POOL")
        if warning is not None:
            terminal.tell(warning)
