"""The store: durable when it says so, one transaction for many turns, private, migrated, and cleaned up."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llorch.base.errors import HostError, StorageUnavailable
from llorch.base.ids import JobId, ModelId, PoolId, TenantId, WorkerId
from llorch.core.effects import Decision, PoolDropped, PoolRecord, Record, WorkerForgotten
from llorch.core.job import Ending, JobRecord, JobSpec, JobState, Priority, Result, Wishes
from llorch.core.worker import Load, WorkerRecord, WorkerSpec, WorkerState
from llorch.store import database
from llorch.store.client_keys import ClientKey, ClientKeys
from llorch.store.codec import DamagedRecord, decode, encode
from llorch.store.inserts import ROWS_MAX
from llorch.store.statements import statements
from llorch.store.store import FILE_NAME, Store, StoreBroken


def job(number: int, state: JobState = JobState.QUEUED, **fields: Any) -> JobRecord:
    """A job with something in every kind of field."""
    spec = JobSpec(
        job_id=JobId(f"job-{number}"),
        payload=f'{{"prompt":"secret {number}"}}'.encode(),
        prompt_sha256="00",
        prompt_bytes=8,
        seed=2**64 - 1,
        model=ModelId("m"),
        priority=Priority.BATCH,
        tenant=TenantId("alice" if number % 2 else "bob"),
        wishes=Wishes(pin_pool="p", prefer_pools=("a", "b")),
    )
    return JobRecord(spec, state, accepted_at=1000.0 + number, sequence=number, **fields)


def finished(number: int, ended_at: float) -> JobRecord:
    """A completed job."""
    ending = Ending(JobState.COMPLETED, Result("EOS", tokens_out=3, seed=2**64 - 1))
    return job(number, JobState.COMPLETED, ended_at=ended_at, ending=ending, worker_id=WorkerId("w"))


WORKER = WorkerRecord(
    WorkerSpec(WorkerId("w"), "http://h:1", ModelId("m"), "cpu", PoolId("h"), 4, 2048, 7, "0.1", 1),
    WorkerState.READY,
    announced_at=5.0,
    lease_until=10.0,
    load=Load(tokens_per_s=1.5),
)
DECISION = Decision(JobId("job-1"), 1001.0, "placement", "w", (("w2", "no slot"), ("w3", "lost")), "note")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / FILE_NAME


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """An open store."""
    opened = Store(path)
    yield opened
    opened.close()


@pytest.mark.parametrize("record", [job(1), finished(2, 9.0), WORKER, DECISION], ids=lambda r: type(r).__name__)
def test_records_survive_the_codec(record: Any) -> None:
    """What was encoded decodes to an equal value; unknown keys and missing ones with defaults do no harm."""
    given = {"payload": record.spec.payload} if isinstance(record, JobRecord) else {}
    text = encode(record, leave_out=("payload",))
    assert "secret" not in text
    assert decode(type(record), text, **given) == record
    assert decode(type(record), '{"added_later":1,' + text[1:], **given) == record


def test_digests_of_a_prompt_are_not_stored(path: Path) -> None:
    """They would say something of a prompt for days after it is gone; whoever needs them computes them anew."""
    record = job(1)

    async def write() -> None:
        await store.commit([replace(record, spec=replace(record.spec, prefixes=("5ec4e75ec4e75ec4",)))])

    store = Store(path)
    asyncio.run(write())
    assert store.snapshot().jobs == (record,)
    store.close()
    assert b"5ec4e7" not in b"".join(file.read_bytes() for file in path.parent.iterdir())


@pytest.mark.parametrize("text", ["{", "[]", "null", "{}", '{"spec":7}', '{"spec":{"seed":1},"state":"queued"}'])
def test_a_record_that_cannot_be_read_says_so(text: str) -> None:
    """One error with the way out, never a KeyError from inside; nothing of the record is in it."""
    with pytest.raises(DamagedRecord, match=r"a stored JobRecord cannot be read: restore the database"):
        decode(JobRecord, text, payload=b"secret")


def test_statements_have_names() -> None:
    """Every statement of queries.sql compiles against the schema."""
    connection = sqlite3.connect(":memory:")
    database.migrate(connection, database.SCRIPTS)
    for name, text in statements().items():
        binds = dict.fromkeys(re.findall(r":([a-z_0-9]+)", text))
        connection.execute(f"EXPLAIN {text}", binds)
        assert name.isidentifier()


def test_a_snapshot_gives_back_what_was_committed(path: Path) -> None:
    """Live jobs in order of acceptance with their prompts, workers, pools, and the newest time."""

    async def write(store: Store) -> None:
        await store.commit([job(2), job(1), finished(3, 1500.0), WORKER, PoolRecord(PoolId("p"), True)])
        await store.commit([DECISION, replace(job(1), state=JobState.RUNNING, attempts=1)])
        await store.commit([PoolRecord(PoolId("gone"), False), PoolDropped(PoolId("gone"))])
        await store.commit([replace(WORKER, spec=replace(WORKER.spec, worker_id=WorkerId("x")))])
        await store.commit([WorkerForgotten(WorkerId("x"))])

    first = Store(path)
    asyncio.run(write(first))
    first.close()
    second = Store(path)
    snapshot = second.snapshot()
    second.close()
    assert [record.spec.job_id for record in snapshot.jobs] == ["job-2", "job-1"]
    assert snapshot.jobs[0] == job(2)
    assert snapshot.jobs[1] == replace(job(1), state=JobState.RUNNING, attempts=1)
    assert snapshot.workers == (WORKER,) and snapshot.pools == (PoolRecord(PoolId("p"), True),)
    assert snapshot.newest_at == 1500.0


def test_a_restart_reads_back_the_newest_keys(path: Path) -> None:
    """Idempotency keys of live and ended jobs come back, oldest first, and no more than were asked for."""

    def keyed(record: JobRecord) -> JobRecord:
        return replace(record, spec=replace(record.spec, idempotency_key=f"k-{record.sequence}"))

    async def write(store: Store) -> None:
        await store.commit([keyed(job(1)), job(2), keyed(job(3)), keyed(job(4))])
        await store.commit([keyed(finished(3, 2000.0)), keyed(finished(1, 3000.0))])

    first = Store(path)
    asyncio.run(write(first))
    first.close()
    second = Store(path)
    keys, newest = second.snapshot().keys, second.snapshot(keys_max=2).keys
    second.close()
    assert keys == (("alice", "k-1", "job-1"), ("alice", "k-3", "job-3"), ("bob", "k-4", "job-4"))
    assert newest == keys[1:]


def test_the_prompt_is_dropped_with_the_end(store: Store, path: Path) -> None:
    """A terminal record loses its payload for good; a late non-terminal write does not bring it back to disk."""

    async def work() -> None:
        await store.commit([job(1)])
        await store.commit([finished(1, 2000.0)])
        found = await store.job("job-1")
        assert found is not None and found.record.spec.payload == b"" and found.record.state is JobState.COMPLETED
        await store.checkpoint()

    asyncio.run(work())
    assert b"secret 1" not in path.read_bytes()
    assert path.with_name(path.name + "-wal").stat().st_size == 0


def test_pages_walk_through_everything_once(store: Store) -> None:
    """Newest first, filtered by state and tenant; cursors neither skip nor repeat."""

    async def work() -> None:
        await store.commit([finished(n, 2000.0) if n % 3 == 0 else job(n) for n in range(10)])
        for states, tenant, wanted in [
            ((), None, range(9, -1, -1)),
            ((JobState.COMPLETED,), None, (9, 6, 3, 0)),
            ((), TenantId("alice"), (9, 7, 5, 3, 1)),
            ((JobState.QUEUED, JobState.RUNNING), TenantId("bob"), (8, 4, 2)),
        ]:
            seen: list[str] = []
            before = None
            while True:
                page = await store.jobs(states=states, tenant=tenant, before=before, count=2)
                seen += [stored.record.spec.job_id for stored in page.jobs]
                before = page.next
                if before is None:
                    break
            assert seen == [f"job-{n}" for n in wanted]

    asyncio.run(work())


def test_many_turns_share_a_transaction(store: Store) -> None:
    """A hundred commits at once all succeed, in order, and every decision is kept."""

    async def work() -> None:
        turns = [store.commit([replace(job(1), attempts=n), replace(DECISION, note=str(n))]) for n in range(100)]
        await asyncio.gather(*turns)
        found = await store.job("job-1")
        assert found is not None and found.record.attempts == 99
        assert [line.note for line in await store.decisions("job-1")] == [str(n) for n in range(100)]

    asyncio.run(work())


def test_a_long_turn_is_stored_in_order(store: Store, path: Path) -> None:
    """However many records a turn has, jobs keep their order, the newest of a job counts, and no decision is lost."""
    count = 3 * ROWS_MAX - 5

    async def write() -> None:
        records: list[Record] = []
        for number in range(count):
            decision = Decision(JobId(f"job-{number}"), 1000.0 + number, "admitted", None, (), str(number))
            records += [job(number), decision, replace(job(number), attempts=1)]
        await store.commit([*records, WORKER])
        for number in (0, count - 1):
            assert [line.note for line in await store.decisions(f"job-{number}")] == [str(number)]

    asyncio.run(write())
    live = store.snapshot().jobs
    assert [record.sequence for record in live] == list(range(count))
    assert all(record.attempts == 1 for record in live)


def test_expiry_removes_outputs_then_records(store: Store) -> None:
    """An output goes before its record; live jobs never go."""

    async def work() -> None:
        await store.commit([job(1), finished(2, 2000.0), finished(3, 3000.0), DECISION])
        assert await store.expired_outputs(2500.0) == ["job-2"]
        await store.expire(9000.0)
        assert await store.job("job-2") is not None, "its output is still there"
        await store.forget_outputs([JobId("job-2")])
        assert await store.expired_outputs(2500.0) == []
        assert await store.kept_outputs(["job-1", "job-2", "job-3", "job-9"]) == {"job-1", "job-3"}
        await store.expire(2500.0)
        assert await store.job("job-2") is None and await store.job("job-3") is not None
        assert await store.decisions("job-1") == ()
        await store.expire(1e12)
        assert await store.job("job-1") is not None

    asyncio.run(work())


def test_keys_are_unique_and_revocable(store: Store, path: Path) -> None:
    """A name is used once, also after it was revoked; an open store sees each change at once."""
    keys = ClientKeys(path)
    assert keys.add("a", "11", 1.0)
    assert not keys.add("a", "22", 2.0)
    assert [key.revoked_at for key in store.stored_keys()] == [None]
    assert keys.revoke("a", 3.0)
    assert not keys.revoke("a", 4.0)
    assert not keys.add("a", "33", 5.0)
    assert (
        keys.all() == store.stored_keys() == asyncio.run(store.current_keys()) == [ClientKey("a", "11", 1.0, 3.0, "a")]
    )
    keys.close()


def test_a_current_database_is_told_from_others_without_touching_it(tmp_path: Path) -> None:
    """Absent and older ones are not current, newer ones and garbage are errors; none of them is changed."""
    path = tmp_path / FILE_NAME
    assert not database.is_current(path) and not path.exists()
    with pytest.raises(HostError):
        ClientKeys(path)
    database.open_writer(path, ()).close()
    assert not database.is_current(path)
    database.open_writer(path).close()
    assert database.is_current(path)
    with pytest.raises(database.SchemaTooNew):
        database.is_current(path, ())
    path.write_bytes(b"this is no database " * 400)
    with pytest.raises(HostError):
        database.is_current(path)
    assert path.read_bytes() == b"this is no database " * 400


def test_a_failing_disk_is_storage_unavailable(store: Store, path: Path) -> None:
    """A commit that cannot be written fails whole; the next one works again."""

    async def work() -> None:
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        store._writer.execute("PRAGMA busy_timeout = 20")
        with pytest.raises(StorageUnavailable):
            await store.commit([job(1)])
        blocker.execute("ROLLBACK")
        assert await store.job("job-1") is None
        await store.commit([job(1)])
        assert await store.job("job-1") is not None

    asyncio.run(work())


def test_a_newer_schema_is_refused(path: Path) -> None:
    """A database of a newer llorch is left alone, with the way out in the message."""
    Store(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(database.SchemaTooNew, match="--state"):
        Store(path)
    assert path.read_bytes() == before


def test_a_failed_migration_changes_nothing(path: Path) -> None:
    """Each script is one transaction: half a migration never stays."""
    connection = sqlite3.connect(path, isolation_level=None)
    with pytest.raises(FileNotFoundError):
        database.migrate(connection, (*database.SCRIPTS, "no_such_script.sql"))
    assert connection.execute("PRAGMA user_version").fetchone() == (len(database.SCRIPTS),)


def test_damage_is_set_aside(path: Path) -> None:
    """A damaged file is renamed, not lost, and a new database works."""
    Store(path).close()
    data = bytearray(path.read_bytes())
    data[100:8192] = os.urandom(8092)
    path.write_bytes(data)
    store = Store(path)
    assert store.snapshot().jobs == ()
    store.close()
    (aside,) = path.parent.glob(f"{FILE_NAME}.corrupt-*")
    assert aside.read_bytes() == bytes(data)


def _commit_for_ever(path: str, acknowledged: Any) -> None:
    async def work() -> None:
        store = Store(Path(path))
        number = 0
        while True:
            await store.commit([job(number)])
            acknowledged.value = number
            number += 1

    asyncio.run(work())


def test_kill_9_loses_nothing_acknowledged(path: Path) -> None:
    """A writer killed at any moment: every acknowledged commit is there."""
    context = multiprocessing.get_context("spawn")
    acknowledged = context.Value("i", -1)
    process = context.Process(target=_commit_for_ever, args=(str(path), acknowledged))
    process.start()
    while acknowledged.value < 50 and process.is_alive():
        process.join(0.01)
    process.kill()
    process.join()
    store = Store(path)
    count = len(store.snapshot().jobs)
    store.close()
    assert count > acknowledged.value >= 50
    assert not list(path.parent.glob("*.corrupt-*"))


def test_a_checkpoint_that_fails_fails_alone(store: Store) -> None:
    """A commit that shares its group with a checkpoint is answered by its own outcome."""
    store._writer.set_authorizer(
        lambda action, first, *_: (
            sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_PRAGMA and first == "wal_checkpoint" else sqlite3.SQLITE_OK
        )
    )

    async def work() -> None:
        written, checkpoint = store.commit([job(1)]), store.checkpoint()
        await written
        with pytest.raises(StorageUnavailable):
            await checkpoint
        assert await store.job("job-1") is not None

    asyncio.run(work())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_writer_leaves_nobody_waiting(store: Store) -> None:
    """What the writer cannot even try ends it: what waits and what comes later is told so, nothing hangs."""
    unwritable = replace(DECISION, note="\ud800")

    async def work() -> None:
        turns = [store.commit([unwritable]), store.commit([job(1)])]
        for turn in turns:
            with pytest.raises(StoreBroken):
                await asyncio.wait_for(turn, 10)
        with pytest.raises(StoreBroken):
            await asyncio.wait_for(store.commit([job(2)]), 10)

    asyncio.run(work())
