"""The state directory: made private, locked by the one orchestratord that uses it, and where that one can be found."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path

from llorch.base.errors import HostError
from llorch.host import process

LOCK_FILE = "orchestratord.lock"
RECORD_FILE = "orchestratord.json"
SETTINGS_FILE = "orchestratord-settings.json"


def prepare(folder: Path) -> Path:
    """Make the directory, for its owner only. Raises HostError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise HostError(f"the state directory {folder} cannot be made: {error.strerror}") from None
    return folder


class Lock:
    """Held while an orchestratord runs on the directory; the kernel releases it when the process is gone."""

    def __init__(self, folder: Path) -> None:
        """Raises HostError when another process holds it."""
        path = folder / LOCK_FILE
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(f"the state directory {folder} cannot be used: {error.strerror}") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise HostError(
                f"another orchestratord runs on {folder}{_whereabouts(folder)}; stop it, or use another --state"
            ) from None

    def release(self) -> None:
        """Let the next one in."""
        os.close(self._fd)


def _whereabouts(folder: Path) -> str:
    try:
        record = json.loads((folder / RECORD_FILE).read_text())
        return f" ({record['url']}, pid {record['pid']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def write_record(folder: Path, url: str, started_at: str) -> None:
    """Say where this orchestratord listens; complete or absent for whoever reads it. Raises HostError."""
    about = {"url": url, "pid": os.getpid(), "start_time": process.start_time(os.getpid())}
    write_json(folder / RECORD_FILE, {**about, "started_at": started_at})


def write_json(path: Path, body: Mapping[str, object]) -> None:
    """For this user only; complete or absent for whoever reads it. Raises HostError."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(body, file, default=str)
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise HostError(f"{path} cannot be written: {error.strerror}") from None


def remove_record(folder: Path) -> None:
    """Nobody listens any more."""
    for name in (RECORD_FILE, SETTINGS_FILE):
        (folder / name).unlink(missing_ok=True)


def running(folder: Path) -> dict[str, object] | None:
    """The record of the orchestratord that runs on the directory; None: none does."""
    try:
        record = json.loads((folder / RECORD_FILE).read_text())
        is_there = process.is_alive(int(record["pid"]), float(record["start_time"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(record) if is_there else None
