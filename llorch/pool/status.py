"""`status` and `backends`: the facts of this host, for people and (as JSON) for orchestratord's placement."""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Set
from dataclasses import asdict
from typing import Any

import llorch
from llorch.base.clock import iso
from llorch.base.home import Home, find_home
from llorch.host import devices, disk, process, runtime
from llorch.pool import catalog_file, health, measured, records
from llorch.pool.measured import Shape
from llorch.pool.models import model_body
from llorch.pool.output import host_name, print_json
from llorch.pool.progress import megabytes
from llorch.pool.records import WorkerRecord
from llorch.pool.terminal import Terminal
from llorch.pool.workers import worker_body
from llorch.wire.catalog import ModelEntry


def facts(home: Home) -> dict[str, Any]:
    """The JSON of `status`, as spec/pool_status.schema.json describes it; every size in bytes.

    Memory that workers of this home hold is told apart from what strangers hold, in main memory and on every GPU.
    """
    gpus, gpus_reason = devices.read_gpus()
    program = runtime.build()
    workers = [_worker_body(row) for row in health.ask_all(home, records.load_all(home))]
    entries = [entry for entry in catalog_file.load(home).entries() if entry.downloaded]
    return {
        "host": host_name(),
        "os": platform.system().lower(),
        "architecture": platform.machine(),
        "version": llorch.__version__,
        "protocol": llorch.PROTOCOL,
        "build_id": program.build_id,
        "at": iso(time.time()),
        "cpu": {**asdict(devices.read_cpu()), "load_1m": round(os.getloadavg()[0], 2)},
        "memory": memory_body(devices.read_memory(), sum(row["memory_bytes"] for row in workers)),
        "gpus": [gpu_body(gpu, {row["pid"] for row in workers}) for gpu in gpus],
        "gpus_reason": gpus_reason,
        "disk": {
            "path": str(home.models_dir),
            "total_bytes": disk.total_bytes(home.models_dir),
            "free_bytes": disk.free_bytes(home.models_dir),
        },
        "models": [_model_body(home, entry) for entry in entries],
        "workers": workers,
        "backends": [_backend_body(backend) for backend in devices.backends()],
    }


def _model_body(home: Home, entry: ModelEntry) -> dict[str, Any]:
    """One model and what it was seen to take, without its list of files and what other versions keep in the catalog."""
    left_out = {"files", *entry.unknown}
    rows = measured.of_model(home, entry)
    plain = [row.memory_bytes for row in rows if row.shape == Shape(row.shape.backend)]
    return {
        **{name: value for name, value in model_body(home, entry).items() if name not in left_out},
        "measured_bytes": max(plain, default=0),
        "measured": [row.to_body() for row in rows],
    }


def _worker_body(row: tuple[WorkerRecord, str, dict[str, Any]]) -> dict[str, Any]:
    record, word, _ = row
    held = 0 if word == "Dead" else process.resident_bytes(record.pid)
    return {**worker_body(*row), "memory_bytes": held}


def memory_body(memory: devices.Memory, workers_bytes: int) -> dict[str, int]:
    """Main memory; what is used and not by our workers is foreign."""
    used = memory.total_bytes - memory.available_bytes
    return {**asdict(memory), "workers_bytes": workers_bytes, "foreign_bytes": max(0, used - workers_bytes)}


def gpu_body(gpu: devices.Gpu, ours: Set[int]) -> dict[str, Any]:
    """One GPU; what its driver counts as used and no worker of ours holds is foreign."""
    processes = [{"pid": pid, "memory_bytes": used, "foreign": pid not in ours} for pid, used in gpu.processes]
    held = sum(used for pid, used in gpu.processes if pid in ours)
    return {
        **asdict(gpu),
        "memory_free_bytes": gpu.memory_free_bytes,
        "memory_foreign_bytes": max(0, gpu.memory_used_bytes - held),
        "processes": processes,
    }


def _backend_body(backend: devices.Backend) -> dict[str, Any]:
    return {"name": backend.name, "available": backend.reason is None, "reason": backend.reason}


def status(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """JSON: `facts`."""
    found = facts(find_home(os.environ))
    if arguments.json:
        print_json(found)
    else:
        print("\n".join(render(found)))
    return 0


def render(found: dict[str, Any]) -> list[str]:
    """The facts as lines for people."""
    cpu, memory, space = found["cpu"], found["memory"], found["disk"]
    running = sum(row["status"] == "Running" for row in found["workers"])
    rows = [
        ("Host", f"{found['host']} ({found['os']} {found['architecture']})"),
        ("Version", f"llorch {found['version']}, protocol {found['protocol']}, build {found['build_id']}"),
        ("CPU", f"{cpu['model']}, {cpu['cores']} cores ({', '.join(cpu['features']) or 'no vector extensions'})"),
        ("Load", f"{cpu['load_1m']:g} of {cpu['cores']} cores"),
        ("Memory", _memory_line(memory)),
        ("Disk", f"{megabytes(space['free_bytes'])} free of {megabytes(space['total_bytes'])} ({space['path']})"),
        *((f"GPU {gpu['index']}", _gpu_line(gpu)) for gpu in found["gpus"]),
        *([] if found["gpus"] else [("GPU", f"none: {found['gpus_reason']}")]),
        *((f"Backend {row['name']}", row["reason"] or "available") for row in found["backends"]),
        ("Models", ", ".join(row["id"] for row in found["models"]) or "none"),
        ("Workers", f"{len(found['workers'])} ({running} running)"),
    ]
    lines = [f"{name:<14} {text}" for name, text in rows]
    lines += [f"{'':<14} {w['worker_id']}  {w['model']}  port {w['port']}  {w['status']}" for w in found["workers"]]
    return lines


def _memory_line(memory: dict[str, int]) -> str:
    free = f"{megabytes(memory['available_bytes'])} available of {megabytes(memory['total_bytes'])}"
    return f"{free}; workers {megabytes(memory['workers_bytes'])}, others {megabytes(memory['foreign_bytes'])}"


def _gpu_line(gpu: dict[str, Any]) -> str:
    busy = "" if gpu["utilisation_percent"] is None else f", {gpu['utilisation_percent']} % busy"
    memory = f"{megabytes(gpu['memory_free_bytes'])} free of {megabytes(gpu['memory_total_bytes'])}"
    foreign = sum(row["foreign"] for row in gpu["processes"])
    return (
        f"{gpu['name']}, {memory}{busy}, driver {gpu['driver']}, {len(gpu['processes'])} processes ({foreign} foreign)"
    )


def backends(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """JSON: {host, backends: [{name, available, reason}]}."""
    found = [_backend_body(backend) for backend in devices.backends()]
    if arguments.json:
        print_json({"host": host_name(), "backends": found})
    else:
        for row in found:
            print(f"{row['name']:<8} {terminal.mark(row['available']):<4} {row['reason'] or ''}".rstrip())
    return 0
