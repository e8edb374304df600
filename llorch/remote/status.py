"""`llorch status`: the cluster at a glance, as orchestratord sees it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from llorch.remote import orchestrator, skew, terminal

FACTS_AGE_MAX_S = 60


def status_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch status`."""
    orchestrator.add_arguments(parser)
    parser.add_argument("--refresh", action="store_true", help="have every pool say anew what it has")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def status(arguments: argparse.Namespace) -> int:
    """Health counts, the pools with their facts, and the workers."""
    client = orchestrator.connect(arguments)
    health, workers = client.health(), client.workers().get("workers", [])
    _tell_skew(workers)
    pools = client.pools(0 if arguments.refresh else FACTS_AGE_MAX_S).get("pools", [])
    if arguments.json:
        terminal.write_json({"orchestrator": client.url, "health": health, "pools": pools, "workers": workers})
        return 0
    named = (("pools", "pool", "pools"), ("workers", "worker", "workers"), ("queue_depth", "job waits", "jobs wait"))
    counts = ", ".join(f"{health.get(key, '-')} {one if health.get(key) == 1 else many}" for key, one, many in named)
    print(f"{client.url}: {health.get('status', '-')} ({counts})")
    _write_pools(pools)
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


def _write_pools(pools: Sequence[Mapping[str, Any]]) -> None:
    """One line each; the addresses of orchestratord's own host are the pool `local`."""
    shown = [pool for pool in pools if pool.get("id") == "local" or not pool.get("is_local")]
    if not shown:
        return
    heads = ["POOL", "WORKERS", "CORES", "MEMORY FREE", "GPUS", "DISK FREE", "VERSION", "AGE"]
    terminal.write_table(heads, [_pool_cells(pool) for pool in shown])
    for pool in shown:
        if pool.get("facts_error"):
            terminal.tell(f"pool {pool.get('id')}: {pool['facts_error']}")
        if (why := _mapping(pool.get("tunnel")).get("error")) is not None:
            terminal.tell(f"pool {pool.get('id')}: no tunnel: {why}")


def _pool_cells(pool: Mapping[str, Any]) -> list[str]:
    facts = pool.get("facts") or {}
    cpu, memory, disk = (_mapping(facts.get(key)) for key in ("cpu", "memory", "disk"))
    age = pool.get("facts_age_s")
    return [
        f"{pool.get('id')}{' (draining)' if pool.get('draining') else ''}",
        str(len(pool.get("workers") or [])),
        terminal.shown(cpu.get("cores")),
        _of(memory.get("available_bytes"), memory.get("total_bytes")),
        "; ".join(_gpu_cell(gpu) for gpu in facts.get("gpus") or []) or ("none" if facts else "-"),
        _gigabytes(disk.get("free_bytes")),
        terminal.shown(facts.get("version")),
        "-" if age is None else f"{age:.0f} s",
    ]


def _gpu_cell(gpu: Mapping[str, Any]) -> str:
    busy = gpu.get("utilisation_percent")
    free = _of(gpu.get("memory_free_bytes"), gpu.get("memory_total_bytes"))
    return f"{gpu.get('name')} {free}{'' if busy is None else f' {busy} %'}"


def _of(part: object, whole: object) -> str:
    return f"{_gigabytes(part)} of {_gigabytes(whole)}"


def _gigabytes(value: object) -> str:
    return f"{value / 1e9:.1f} GB" if isinstance(value, (int, float)) else "-"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
