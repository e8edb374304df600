"""What of a record is stored where: the named statement that writes it, and that statement's values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from llorch.base.ids import JobId
from llorch.core.effects import (
    Decision,
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
from llorch.store.codec import decode, encode
from llorch.store.inserts import Row


def rows_of(records: Sequence[Record], last_ids: Mapping[JobId, int]) -> list[Row]:
    """The statements that store `records`; `last_ids` says how far the segments of ended jobs go."""
    rows = [_row(record, last_ids) for record in records]
    newest = max(map(_newest, records), default=0.0)
    if newest:
        rows.append(("put_newest", {"at": newest}))
    return rows


def read_job(record: str, payload: bytes | None) -> JobRecord:
    """A stored job. Raises DamagedRecord."""
    return decode(JobRecord, record, payload=payload or b"")


def _row(record: Record, last_ids: Mapping[JobId, int]) -> Row:
    """Built by the caller's thread, so that a bug of ours fails there."""
    match record:
        case JobRecord():
            return "put_job", _job_row(record, last_ids.get(record.spec.job_id))
        case Decision():
            return "put_decision", {"job_id": record.job_id, "at": record.at, "record": encode(record)}
        case WorkerRecord():
            return "put_worker", {"worker_id": record.spec.worker_id, "record": encode(record)}
        case WorkerForgotten():
            return "drop_worker", {"worker_id": record.worker_id}
        case PoolRecord():
            return "put_pool", {"pool_id": record.pool_id, "draining": int(record.draining)}
        case PoolDropped():
            return "drop_pool", {"pool_id": record.pool_id}
        case SessionRecord():
            named = {"tenant": record.tenant, "session_id": record.session_id}
            return "put_session", {**named, "record": encode(record)}
        case SessionForgotten():
            return "drop_session", {"tenant": record.tenant, "session_id": record.session_id}
        case UsageRecord():
            return "put_usage", asdict(record)


def _newest(record: Record) -> float:
    """The newest time in a record."""
    match record:
        case JobRecord():
            times = (record.dispatched_at, record.started_at, record.first_token_at, record.ended_at)
            return max(record.accepted_at, record.queued_since, *filter(None, times))
        case Decision():
            return record.at
        case WorkerRecord():
            return record.announced_at
        case SessionRecord():
            return record.used_at
        case _:
            return 0.0


def _job_row(record: JobRecord, last_id: int | None) -> dict[str, object]:
    ended = record.state.terminal
    return {
        "job_id": record.spec.job_id,
        "state": record.state.value,
        "tenant": record.spec.tenant,
        "idempotency_key": record.spec.idempotency_key,
        "accepted_at": record.accepted_at,
        "ended_at": (record.ended_at or record.accepted_at) if ended else None,
        "record": encode(record, leave_out=("payload", "prefixes")),
        "payload": None if ended else record.spec.payload,
        "last_id": last_id if ended else None,
    }
