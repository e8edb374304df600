"""`status` and `backends`: the facts of this host, for people and (as JSON) for orchestratord's placement."""

from __future__ import annotations

import argparse
import os
import platform
from dataclasses import asdict
from typing import Any

import llorch
from llorch.base.home import Home, find_home
from llorch.host import devices, disk, runtime
from llorch.pool import catalog_file, health, records
from llorch.pool.models import model_body
from llorch.pool.output import host_name, print_json
from llorch.pool.progress import megabytes
from llorch.pool.terminal import Terminal
from llorch.pool.workers import worker_body


def facts(home: Home) -> dict[str, Any]:
    """The JSON of `status`; every size in bytes.

    host, os, architecture, version, protocol, build_id · cpu {model, architecture, cores, features} ·
    memory {total_bytes, available_bytes} · gpus [{index, name, uuid, memory_total_bytes, memory_used_bytes,
    memory_free_bytes, utilisation_percent, driver, processes}], gpus_reason · disk {path, total_bytes, free_bytes} ·
    models [model_body of the downloaded ones, without files] · workers [worker_body] ·
    backends [{name, available, reason}]
    """
    gpus, gpus_reason = devices.read_gpus()
    program = runtime.build()
    entries = [entry for entry in catalog_file.load(home).entries() if entry.downloaded]
    return {
        "host": host_name(),
        "os": platform.system().lower(),
        "architecture": platform.machine(),
        "version": llorch.__version__,
        "protocol": llorch.PROTOCOL,
        "build_id": program.build_id,
        "cpu": asdict(devices.read_cpu()),
        "memory": asdict(devices.read_memory()),
        "gpus": [_gpu_body(gpu) for gpu in gpus],
        "gpus_reason": gpus_reason,
        "disk": {
            "path": str(home.root),
            "total_bytes": disk.total_bytes(home.root),
            "free_bytes": disk.free_bytes(home.root),
        },
        "models": [{k: v for k, v in model_body(home, entry).items() if k != "files"} for entry in entries],
        "workers": [worker_body(*row) for row in health.ask_all(home, records.load_all(home))],
        "backends": [_backend_body(backend) for backend in devices.backends()],
    }


def _gpu_body(gpu: devices.Gpu) -> dict[str, Any]:
    processes = [{"pid": pid, "memory_bytes": used} for pid, used in gpu.processes]
    return {**asdict(gpu), "memory_free_bytes": gpu.memory_free_bytes, "processes": processes}


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
        ("Memory", f"{megabytes(memory['available_bytes'])} available of {megabytes(memory['total_bytes'])}"),
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


def _gpu_line(gpu: dict[str, Any]) -> str:
    busy = "" if gpu["utilisation_percent"] is None else f", {gpu['utilisation_percent']} % busy"
    memory = f"{megabytes(gpu['memory_free_bytes'])} free of {megabytes(gpu['memory_total_bytes'])}"
    return f"{gpu['name']}, {memory}{busy}, driver {gpu['driver']}, {len(gpu['processes'])} processes"


def backends(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """JSON: {host, backends: [{name, available, reason}]}."""
    found = [_backend_body(backend) for backend in devices.backends()]
    if arguments.json:
        print_json({"host": host_name(), "backends": found})
    else:
        for row in found:
            print(f"{row['name']:<8} {terminal.mark(row['available']):<4} {row['reason'] or ''}".rstrip())
    return 0
