"""What happened, read back: jobs of a time, workers and pools. Reads only, also beside a daemon that is running."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llorch.base.errors import ConfigError, HostError
from llorch.base.ids import PoolId
from llorch.core.job import JobRecord
from llorch.core.worker import WorkerRecord
from llorch.store import database
from llorch.store.codec import decode
from llorch.store.statements import sql
from llorch.store.store import FILE_NAME

JOBS_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Journal:
    """Jobs in order of acceptance, without their prompts; the workers and registered pools known at the end."""

    jobs: tuple[JobRecord, ...]
    workers: tuple[WorkerRecord, ...]
    pools: tuple[PoolId, ...]


def read_journal(path: Path, since: float, until: float, jobs_max: int = JOBS_MAX) -> Journal:
    """The jobs accepted from `since` until before `until` (Unix seconds); `path`: the database or its directory.

    Raises ConfigError when there is none or it holds too many jobs, HostError when it cannot be read.
    """
    path = path / FILE_NAME if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(f"there is no journal at {path}: name orchestratord's state directory or its {FILE_NAME}")
    try:
        database.is_current(path)  # one of a newer llorch is refused
        return _read(path, {"since": since, "until": until, "count": jobs_max + 1}, jobs_max)
    except sqlite3.DatabaseError as error:
        raise HostError(f"the journal {path} cannot be read: {error}") from None


def _read(path: Path, values: dict[str, Any], jobs_max: int) -> Journal:
    connection = database.open_reader(path)
    try:
        rows = connection.execute(sql("accepted_jobs"), values).fetchall()
        if len(rows) > jobs_max:
            raise ConfigError(f"the journal holds more than {jobs_max} jobs of that time: choose a shorter one")
        return Journal(
            tuple(decode(JobRecord, record, payload=b"") for (record,) in rows),
            tuple(decode(WorkerRecord, record) for (record,) in connection.execute(sql("workers"))),
            tuple(PoolId(name) for name, _ in connection.execute(sql("pools"))),
        )
    finally:
        connection.close()
