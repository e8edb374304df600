"""The store: one writer thread that commits the records of many turns in one transaction, one reader thread.

`commit` answers when the records are on disk (WAL, FULL). A failed commit is StorageUnavailable and leaves nothing
half-written; the next one tries again. A writer thread that dies of anything else takes every write with it:
StoreBroken, from which only a new process recovers.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from llorch.base import log
from llorch.base.errors import HostError, LlorchError, StorageUnavailable
from llorch.base.ids import JobId, PoolId, TenantId
from llorch.core.effects import Decision, PoolRecord, Record
from llorch.core.job import JobRecord, JobState
from llorch.core.session import SessionRecord
from llorch.core.settings import IDEMPOTENCY_KEYS_MAX
from llorch.core.tenant import DAY_S, UsageRecord
from llorch.core.worker import WorkerRecord
from llorch.store import database, rows
from llorch.store.client_keys import ClientKey
from llorch.store.codec import decode
from llorch.store.inserts import write
from llorch.store.rows import read_job
from llorch.store.statements import sql

logger = log.get(__name__)
T = TypeVar("T")

FILE_NAME = "orchestratord.sqlite"
GROUP_MAX = 1024
PENDING_MAX = 65_536
DECISIONS_SHOWN_MAX = 1000
SWEEP_MAX = 1000


class StoreBroken(HostError):
    """The writer thread died: nothing can be stored any more, and the process has to end."""


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job as read back; `record.spec.payload` is empty once the job has ended.

    `last_id`: of the last frame that its segment held when it ended; None: not known.
    """

    record: JobRecord
    output_kept: bool
    last_id: int | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Jobs, newest first; `next` is the cursor of the page after, or None."""

    jobs: tuple[StoredJob, ...]
    next: int | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a restart needs: live jobs in order of acceptance, workers, pools, and the newest time ever stored.

    `keys` are the newest idempotency keys with their tenants and jobs, oldest first, of ended jobs as well. `usage`
    is that of today and yesterday.
    """

    jobs: tuple[JobRecord, ...]
    workers: tuple[WorkerRecord, ...]
    pools: tuple[PoolRecord, ...]
    keys: tuple[tuple[TenantId, str, JobId], ...]
    newest_at: float
    sessions: tuple[SessionRecord, ...] = ()
    usage: tuple[UsageRecord, ...] = ()


@dataclass(slots=True)
class _Work:
    run: Callable[[sqlite3.Connection], Any] | None  # None: a checkpoint, which cannot be in a transaction
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class Store:
    """All durable state but the tokens. Open one per process; `close()` ends its threads."""

    def __init__(self, path: Path) -> None:
        """Raises HostError when the file cannot be opened, SchemaTooNew when a newer llorch wrote it."""
        self._writer = database.open_writer(path)
        self._reader = database.open_reader(path)
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._in_hand: list[_Work] = []
        self._broken = False
        self._thread = threading.Thread(target=self._write_until_closed, name="store-writer", daemon=True)
        self._thread.start()
        self._reads = ThreadPoolExecutor(1, "store-reader")

    def close(self) -> None:
        """Finish what was submitted, then close both connections."""
        self._work.put(None)
        self._thread.join()
        self._reads.shutdown(wait=True)
        self._reader.close()
        self._writer.close()

    # Writing

    def commit(self, records: Sequence[Record], last_ids: Mapping[JobId, int] | None = None) -> asyncio.Future[None]:
        """A future that is done when `records` are durable; its exception is StorageUnavailable or StoreBroken.

        `last_ids`: of jobs that end with these records, the id of the last frame in their segments.
        """
        return self._submit(partial(write, rows.rows_of(records, last_ids or {})))

    def _submit(self, run: Callable[[sqlite3.Connection], T] | None) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        work = _Work(run, loop.create_future(), loop)
        if self._work.qsize() < PENDING_MAX:
            self._work.put(work)
        else:
            work.future.set_exception(StorageUnavailable("the store has too many writes waiting", retry_after_s=1))
        if self._broken:
            self._break()
        return work.future

    def _write_until_closed(self) -> None:
        """The writer thread. What nobody foresaw ends it, but leaves no write waiting for ever."""
        sound = False
        try:
            self._write_loop()
            sound = True
        finally:
            if not sound:
                self._broken = True
                self._break()

    def _break(self) -> None:
        waiting, self._in_hand = self._in_hand, []
        while True:
            try:
                work = self._work.get_nowait()
            except queue.Empty:
                break
            if work is not None:
                waiting.append(work)
        _settle(waiting, [], StoreBroken("the store's writer failed; its reason is in the log"))

    def _write_loop(self) -> None:
        while (first := self._work.get()) is not None:
            self._in_hand, last = self._gather(first)
            writes = [work for work in self._in_hand if work.run is not None]
            if writes:
                _settle(writes, *self._run(writes))
            self._in_hand = [work for work in self._in_hand if work.run is None]
            if self._in_hand:
                # After the writes have been answered: they are durable, whatever becomes of the checkpoint.
                _settle(self._in_hand, *self._checkpoint(self._in_hand))
            self._in_hand = []
            if last:
                return

    def _gather(self, first: _Work) -> tuple[list[_Work], bool]:
        """Everything that waits already: it shares one transaction. True: the store is closing."""
        group = [first]
        while len(group) < GROUP_MAX:
            try:
                work = self._work.get_nowait()
            except queue.Empty:
                break
            if work is None:
                return group, True
            group.append(work)
        return group, False

    def _run(self, group: list[_Work]) -> tuple[list[Any], StorageUnavailable | None]:
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            results = [work.run(self._writer) if work.run is not None else None for work in group]
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            log.event(logger, f"a commit failed: {error}", level=logging.ERROR, works=len(group))
            return [], StorageUnavailable(retry_after_s=5)
        return results, None

    def _checkpoint(self, group: list[_Work]) -> tuple[list[Any], StorageUnavailable | None]:
        try:
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            log.event(logger, f"a checkpoint failed: {error}", level=logging.ERROR)
            return [], StorageUnavailable(retry_after_s=5)
        return [None] * len(group), None

    def _roll_back(self) -> None:
        if self._writer.in_transaction:
            try:
                self._writer.execute("ROLLBACK")
            except sqlite3.Error as error:
                log.event(logger, f"a rollback failed: {error}", level=logging.ERROR)

    # Reading

    async def _read(self, name: str, **values: object) -> list[Any]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reads, partial(self._fetch, name, values))

    def _fetch(self, name: str, values: dict[str, object]) -> list[Any]:
        try:
            return self._reader.execute(sql(name), values).fetchall()
        except sqlite3.Error as error:
            log.event(logger, f"a read failed: {error}", level=logging.ERROR, statement=name)
            raise StorageUnavailable("the store cannot be read now", retry_after_s=5) from None

    def snapshot(self, keys_max: int = IDEMPOTENCY_KEYS_MAX, now: float = 0.0) -> Snapshot:
        """The stored state, read once at start, with at most `keys_max` idempotency keys.

        Today is the day of `now`, or of the newest stored time when that is later.
        """
        keys = self._fetch("newest_keys", {"count": keys_max})
        newest_at = self._fetch("newest", {})[0][0]
        yesterday = int(max(now, newest_at) // DAY_S) - 1
        return Snapshot(
            jobs=tuple(read_job(record, payload) for record, payload in self._fetch("live_jobs", {})),
            workers=tuple(decode(WorkerRecord, record) for (record,) in self._fetch("workers", {})),
            pools=tuple(PoolRecord(PoolId(name), bool(draining)) for name, draining in self._fetch("pools", {})),
            keys=tuple((TenantId(tenant), key, JobId(job_id)) for tenant, key, job_id in reversed(keys)),
            newest_at=newest_at,
            sessions=tuple(decode(SessionRecord, record) for (record,) in self._fetch("sessions", {})),
            usage=tuple(UsageRecord(*row) for row in self._fetch("usage", {"tenant": None, "first_day": yesterday})),
        )

    async def job(self, job_id: str) -> StoredJob | None:
        """One job, or None."""
        found = await self._read("job", job_id=job_id)
        return StoredJob(read_job(found[0][0], found[0][1]), bool(found[0][2]), found[0][3]) if found else None

    async def jobs(
        self,
        *,
        states: Iterable[JobState] = (),
        tenant: TenantId | None = None,
        before: int | None = None,
        count: int = 100,
    ) -> Page:
        """One page, newest first; no states: all of them. `before` is the `next` of the page before."""
        values: dict[str, object] = {"tenant": tenant, "before": before, "count": count + 1}
        wanted = [state.value for state in states]
        if wanted:
            found = await self._read("jobs_in_states", states=_json_list(wanted), **values)
        else:
            found = await self._read("jobs", **values)
        page = tuple(StoredJob(read_job(record, payload), bool(kept)) for _, record, payload, kept in found[:count])
        return Page(page, found[count - 1][0] if len(found) > count else None)

    async def decisions(self, job_id: str) -> tuple[Decision, ...]:
        """Every decision on one job, in order."""
        found = await self._read("decisions", job_id=job_id, count=DECISIONS_SHOWN_MAX)
        return tuple(decode(Decision, record) for (record,) in found)

    async def usage(self, first_day: int, tenant: TenantId | None = None) -> list[UsageRecord]:
        """What was taken from `first_day` on, by tenant and day; None: by every tenant."""
        found = await self._read("usage", tenant=tenant, first_day=first_day)
        return [UsageRecord(*row) for row in found]

    # Expiry

    async def expired_outputs(self, ended_before: float) -> list[JobId]:
        """Jobs whose tokens may be removed now, at most a thousand at once."""
        found = await self._read("expired_outputs", ended_before=ended_before, count=SWEEP_MAX)
        return [JobId(job_id) for (job_id,) in found]

    async def kept_outputs(self, job_ids: Sequence[str]) -> set[str]:
        """Which of these jobs have a row that still counts on its segment."""
        found = await self._read("known_jobs", job_ids=_json_list(list(job_ids)))
        return {job_id for (job_id,) in found}

    def forget_outputs(self, job_ids: Sequence[JobId]) -> asyncio.Future[None]:
        """Note that the segments of these jobs are gone."""
        return self._submit(partial(_forget_outputs, tuple(job_ids)))

    def expire(self, ended_before: float) -> asyncio.Future[None]:
        """Delete the records and decisions of jobs that ended before this time."""
        return self._submit(partial(_expire, ended_before))

    def expire_usage(self, first_day: int) -> asyncio.Future[None]:
        """Delete what tenants took before this day."""
        return self._submit(partial(write, [("expire_usage", {"first_day": first_day})]))

    def checkpoint(self) -> asyncio.Future[None]:
        """Move the write-ahead log into the database and empty it: prompts that were dropped leave the disk, too."""
        return self._submit(None)

    # Client keys

    def stored_keys(self) -> list[ClientKey]:
        """Every key, revoked ones too; blocking, for start."""
        return [ClientKey(*row) for row in self._fetch("keys", {})]

    async def current_keys(self) -> list[ClientKey]:
        """Every key, revoked ones too."""
        return [ClientKey(*row) for row in await self._read("keys")]


def _settle(group: list[_Work], results: list[Any], error: LlorchError | None) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[_Work]] = {}
    for work in group:
        by_loop.setdefault(work.loop, []).append(work)
    outcome = dict(zip(map(id, group), results, strict=True)) if error is None else {}
    for loop, works in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, works, outcome, error)
        except RuntimeError:  # the loop has been closed: nobody waits any more
            continue


def _resolve(works: list[_Work], outcome: dict[int, Any], error: LlorchError | None) -> None:
    for work in works:
        if work.future.done():
            continue
        if error is None:
            work.future.set_result(outcome[id(work)])
        else:
            work.future.set_exception(type(error)(error.message, retry_after_s=error.retry_after_s))


def _json_list(items: list[str]) -> str:
    return "[" + ",".join(f'"{item}"' for item in items if '"' not in item and "\\" not in item) + "]"


def _forget_outputs(job_ids: tuple[JobId, ...], connection: sqlite3.Connection) -> None:
    connection.executemany(sql("forget_output"), [{"job_id": job_id} for job_id in job_ids])


def _expire(ended_before: float, connection: sqlite3.Connection) -> None:
    connection.execute(sql("expire_jobs"), {"ended_before": ended_before})
    connection.execute(sql("expire_decisions"), {"ended_before": ended_before})
