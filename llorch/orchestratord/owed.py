"""What a disk that refuses owes: records still to be written, and endings that may be told only once they are."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from llorch.base.ids import JobId
from llorch.core.effects import (
    Decision,
    Effect,
    Finish,
    Persist,
    PoolDropped,
    PoolRecord,
    Record,
    SessionForgotten,
    WorkerForgotten,
)
from llorch.core.job import JobRecord
from llorch.core.session import SessionRecord
from llorch.core.tenant import UsageRecord
from llorch.core.worker import WorkerRecord

DECISIONS_MAX = 10_000


class Owed:
    """Grows with every commit that fails, is emptied by the first that succeeds. True while something is owed."""

    def __init__(self) -> None:
        self._records: dict[object, Record] = {}
        self._endings: list[Finish] = []

    def __bool__(self) -> bool:
        return bool(self._records)

    def records(self, effects: Iterable[Effect]) -> list[Record]:
        """What to write now: what is owed and a turn's own; the newest record of each thing, and every decision."""
        newest = dict(self._records)
        for effect in effects:
            if isinstance(effect, Persist):
                key = _key(effect.record)
                newest.pop(key, None)
                newest[key] = effect.record
        return list(newest.values())

    def refused(self, effects: Collection[Effect], unstored: Collection[JobId]) -> None:
        """The commit of `records(effects)` failed; of the jobs `unstored` nothing is to be written later."""
        records = [record for record in self.records(effects) if _job_of(record) not in unstored]
        surplus = sum(isinstance(record, Decision) for record in records) - DECISIONS_MAX
        self._records = {}
        for record in records:
            if surplus > 0 and isinstance(record, Decision):
                surplus -= 1  # the memory of this process is no place for explanations without end
                continue
            self._records[_key(record)] = record
        self._endings += [e for e in effects if isinstance(e, Finish) and e.job_id not in unstored]

    def settled(self) -> list[Finish]:
        """Everything has been written: the endings that were held back, in order."""
        endings, self._endings = self._endings, []
        self._records.clear()
        return endings


def _key(record: Record) -> object:
    """Records of one key replace each other; decisions never do."""
    match record:
        case JobRecord():
            return "job", record.spec.job_id
        case Decision():
            return id(record)
        case WorkerRecord():
            return "worker", record.spec.worker_id
        case WorkerForgotten():
            return "worker", record.worker_id
        case PoolRecord() | PoolDropped():
            return "pool", record.pool_id
        case SessionRecord() | SessionForgotten():
            return "session", record.tenant, record.session_id
        case UsageRecord():
            return "usage", record.tenant, record.day


def _job_of(record: Record) -> JobId | None:
    match record:
        case JobRecord():
            return record.spec.job_id
        case Decision():
            return record.job_id
        case _:
            return None
