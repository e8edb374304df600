"""Databases of every older schema, as SQL dumps made by the code of their day: today's code opens them and goes on."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from llorch.base.ids import JobId, SessionId, TenantId
from llorch.core.job import JobState
from llorch.core.session import SessionLimits, SessionRecord
from llorch.core.tenant import UsageRecord
from llorch.core.worker import WorkerState
from llorch.store import database
from llorch.store.client_keys import ClientKey, ClientKeys
from llorch.store.store import FILE_NAME, Store

DUMPS = Path(__file__).parent / "databases"
OLDER = range(1, len(database.SCRIPTS))
STARTED = 1_750_000_000.0


def job_id(number: int) -> JobId:
    """The jobs of a dump: 1 queued, 2 running, 3 completed, 4 failed."""
    return JobId(f"job-0000000{number}-0000-4000-8000-000000000000")


def restored(version: int, folder: Path) -> Path:
    """The database of an older version, as it lay on somebody's disk."""
    path = folder / FILE_NAME
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript((DUMPS / f"version_{version}.sql").read_text())
    assert connection.execute("PRAGMA user_version").fetchone() == (version,)
    connection.close()
    return path


def test_there_is_a_dump_of_every_older_schema() -> None:
    """Whoever adds a schema script adds a dump of the version before it, made by the code before it."""
    assert {path.name for path in DUMPS.iterdir()} == {f"version_{version}.sql" for version in OLDER}


@pytest.mark.parametrize("version", OLDER)
def test_live_state_of_an_older_schema_is_all_there(version: int, tmp_path: Path) -> None:
    """Live jobs with their prompts, workers, pools, idempotency keys and the newest time come back."""
    path = restored(version, tmp_path)
    store = Store(path)
    snapshot = store.snapshot()
    store.close()
    queued, running = snapshot.jobs
    assert (queued.spec.job_id, queued.state, queued.spec.tenant) == (job_id(1), JobState.QUEUED, "alice")
    assert queued.spec.payload == b'{"prompt":"tell me number 1","max_tokens":8,"seed":1}'
    assert (running.spec.job_id, running.state, running.worker_id) == (job_id(2), JobState.RUNNING, "worker-cpu-1")
    (worker,) = snapshot.workers
    assert (worker.spec.url, worker.state, worker.load.tokens_per_s) == ("http://gpu-box:8001", WorkerState.READY, 40.0)
    assert [pool.pool_id for pool in snapshot.pools] == ["gpu-box"]
    assert snapshot.keys == (("alice", "key-1", job_id(1)), ("bob", "key-3", job_id(3)))
    assert snapshot.newest_at == STARTED + 7
    assert snapshot.sessions == snapshot.usage == ()


@pytest.mark.parametrize("version", OLDER)
def test_records_of_an_older_schema_are_all_there(version: int, tmp_path: Path) -> None:
    """Ended jobs and decisions can be read; a key of an older schema speaks for the tenant of its own name."""
    store = Store(restored(version, tmp_path))

    async def look() -> None:
        completed, failed = await store.job(job_id(3)), await store.job(job_id(4))
        assert completed is not None and failed is not None
        assert completed.record.ending is not None and completed.record.ending.result is not None
        assert completed.record.ending.result.tokens_out == 3 and completed.output_kept
        assert completed.last_id is None, "nobody had written it down"
        assert failed.record.ending is not None and failed.record.ending.error_code == "WORKER_LOST"
        assert [line.kind for line in await store.decisions(job_id(2))] == ["placement"]
        page = await store.jobs(tenant=TenantId("bob"))
        assert [found.record.spec.job_id for found in page.jobs] == [job_id(4), job_id(3)]

    asyncio.run(look())
    assert store.stored_keys() == [
        ClientKey("alice", "a" * 64, STARTED, None, "alice"),
        ClientKey("bob", "b" * 64, STARTED + 1, STARTED + 2, "bob"),
    ]
    store.close()


@pytest.mark.parametrize("version", OLDER)
def test_a_migrated_database_goes_on(version: int, tmp_path: Path) -> None:
    """It has the schema of today, takes what only today's code stores, and opening it once more changes nothing."""
    path = restored(version, tmp_path)
    session = SessionRecord(SessionId("s"), TenantId("alice"), SessionLimits(tokens_max=9), STARTED, STARTED)
    usage = UsageRecord(TenantId("alice"), 20254, 1, 5, 3)
    store = Store(path)
    asyncio.run(store_all(store, session, usage))
    store.close()
    keys = ClientKeys(path)
    assert keys.add("laptop", "c" * 64, STARTED + 3, "alice")
    keys.close()
    again = Store(path)
    snapshot = again.snapshot()
    assert (snapshot.sessions, snapshot.usage) == ((session,), (usage,))
    assert [key.tenant for key in again.stored_keys()] == ["alice", "bob", "alice"]
    again.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(database.SCRIPTS),)
    connection.close()


async def store_all(store: Store, *records: SessionRecord | UsageRecord) -> None:
    """Commit."""
    await store.commit(records)


def test_a_dump_migrates_to_the_schema_of_a_new_database(tmp_path: Path) -> None:
    """Whether a database is old or new, its tables and indexes are the same."""

    def schema(path: Path) -> set[tuple[str, str]]:
        database.open_writer(path).close()
        connection = sqlite3.connect(path)
        columns = {
            (table, str(column[1:]))
            for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
            for column in connection.execute(f"PRAGMA table_info({table})")
        }
        indexes = set(connection.execute("SELECT name, coalesce(sql, '') FROM sqlite_schema WHERE type = 'index'"))
        connection.close()
        return columns | indexes

    new = tmp_path / "new.sqlite"
    for version in OLDER:
        folder = tmp_path / str(version)
        folder.mkdir()
        assert schema(restored(version, folder)) == schema(new)
