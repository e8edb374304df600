"""`workers/<id>.json`: one small file per worker of this host, with its log, token and load state beside it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llorch.base import ids
from llorch.base.config import did_you_mean
from llorch.base.errors import HostError, WorkerNotFound
from llorch.base.home import Home
from llorch.host import disk, process

HOME_ID_VARIABLE = "LLORCH_HOME_ID"
_NUMBERS = ("pid", "port", "start_time")
_TEXTS = ("url", "model", "backend", "log_path", "home_id", "spawned_at", "build_id")
_SUFFIXES = (".json", ".token", ".status.json")


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """What is known of a spawned worker. `start_time` makes the pid mean one process for ever; `url` is reachable."""

    worker_id: str
    pid: int
    start_time: float
    port: int
    url: str
    model: str
    backend: str
    gpu: int | None
    log_path: str
    home_id: str
    spawned_at: str
    build_id: str = ""  # of the program that runs; empty in records of versions that did not note it
    flags: tuple[str, ...] = ()  # the worker's own, for starting the same again; secrets are in files

    def is_alive(self) -> bool:
        """Does the very process that was started still run?"""
        return process.is_alive(self.pid, self.start_time)


def record_path(home: Home, worker_id: str) -> Path:
    """The record's file."""
    return home.workers_dir / f"{worker_id}.json"


def token_path(home: Home, worker_id: str) -> Path:
    """The worker token handed to this worker (0600); there only when it was spawned from elsewhere."""
    return home.workers_dir / f"{worker_id}.token"


def status_path(home: Home, worker_id: str) -> Path:
    """Where the worker tells how far it is: {"state": loading|ready|failed, "progress", "url", "error"}."""
    return home.workers_dir / f"{worker_id}.status.json"


def log_path(home: Home, worker_id: str) -> Path:
    """The worker's output."""
    return home.workers_dir / f"{worker_id}.log"


def save(home: Home, record: WorkerRecord) -> None:
    """Write the record."""
    disk.write_json(record_path(home, record.worker_id), asdict(record))


def remove(home: Home, worker_id: str) -> None:
    """Remove everything of a worker but its log."""
    for suffix in _SUFFIXES:
        (home.workers_dir / f"{worker_id}{suffix}").unlink(missing_ok=True)


def load_all(home: Home) -> list[WorkerRecord]:
    """Every readable record, oldest first. A damaged one is left where it is, for `cleanup`."""
    found = []
    for path in _record_files(home):
        try:
            found.append(_parse(path))
        except (OSError, ValueError):
            continue
    return sorted(found, key=lambda record: (record.spawned_at, record.port))


def damaged(home: Home) -> list[Path]:
    """Record files that cannot be read."""
    bad = []
    for path in _record_files(home):
        try:
            _parse(path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            bad.append(path)
    return bad


def _record_files(home: Home) -> list[Path]:
    if not home.workers_dir.is_dir():
        return []
    return [p for p in home.workers_dir.glob("*.json") if not p.name.endswith(".status.json") and p.name[0] != "."]


def _parse(path: Path) -> WorkerRecord:
    """Raises ValueError when the file is not a record."""
    body = json.loads(path.read_bytes())
    if not isinstance(body, dict) or body.get("worker_id") != path.stem or not ids.WORKER_ID.fullmatch(path.stem):
        raise ValueError("not a worker record")
    if not all(isinstance(body.get(name), (int, float)) for name in _NUMBERS):
        raise ValueError("a number is missing")
    texts = {name: str(body.get(name) or "") for name in _TEXTS}
    gpu, flags = body.get("gpu"), body.get("flags")
    return WorkerRecord(
        worker_id=path.stem,
        pid=int(body["pid"]),
        start_time=float(body["start_time"]),
        port=int(body["port"]),
        gpu=gpu if isinstance(gpu, int) else None,
        flags=tuple(flags) if isinstance(flags, list) and all(isinstance(flag, str) for flag in flags) else (),
        **texts,
    )


def get(home: Home, worker_id: str) -> WorkerRecord:
    """One record, by id or by a beginning that only one has. Raises WorkerNotFound with a suggestion."""
    known = load_all(home)
    exact = [record for record in known if record.worker_id == worker_id]
    matching = exact or [record for record in known if worker_id and record.worker_id.startswith(worker_id)]
    if len(matching) == 1:
        return matching[0]
    names = [record.worker_id for record in known]
    if matching:
        raise WorkerNotFound(f"'{worker_id}' begins the ids of {len(matching)} workers; name one in full")
    raise WorkerNotFound(f"no worker '{worker_id[:96]}' on this host{did_you_mean(worker_id, names)}")


def read_status(home: Home, worker_id: str) -> dict[str, Any]:
    """The worker's own word on how far it is; empty before it said anything."""
    try:
        value = json.loads(status_path(home, worker_id).read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def home_id(home: Home) -> str:
    """The random id of this home, made on first use; call with the workers' lock held."""
    try:
        found = home.home_id_path.read_text().strip()
    except FileNotFoundError:
        found = ""
    except OSError as error:
        raise HostError(f"cannot read {home.home_id_path}: {error.strerror}") from error
    if not found:
        found = os.urandom(16).hex()
        disk.write_atomic(home.home_id_path, (found + "\n").encode())
    return found


def known_home_id(home: Home) -> str | None:
    """The random id of this home; None when nothing was ever started for it. Raises HostError."""
    try:
        return home.home_id_path.read_text().strip() or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(f"cannot read {home.home_id_path}: {error.strerror}") from error


def tail(path: Path, lines: int, bytes_max: int = 1 << 20, before: int | None = None) -> list[str]:
    """The last `lines` lines of a log (of its first `before` bytes), reading at most `bytes_max` bytes of their end."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END) if before is None else before
            start = file.seek(max(0, size - bytes_max))
            data = file.read(size - start)
    except FileNotFoundError:
        return []
    return data.decode("utf-8", "replace").splitlines()[-lines:] if lines > 0 else []
