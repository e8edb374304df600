"""`llorch status`: the cluster at a glance, as orchestratord sees it."""

from __future__ import annotations

import argparse

from llorch.remote import orchestrator, terminal


def status_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch status`."""
    orchestrator.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def status(arguments: argparse.Namespace) -> int:
    """Health counts and the workers."""
    client = orchestrator.connect(arguments)
    health, workers = client.health(), client.workers().get("workers", [])
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
