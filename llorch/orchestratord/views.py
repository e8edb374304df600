"""Records as the JSON that clients see."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from llorch.base import clock
from llorch.base.errors import InferenceFailed
from llorch.core.accounts import TenantUsage
from llorch.core.brain import QueuePlace
from llorch.core.effects import Decision
from llorch.core.job import Ending, JobRecord, JobState, Result
from llorch.core.loading import Loading
from llorch.core.session import SessionRecord
from llorch.core.tenant import DAY_S, UsageRecord
from llorch.core.worker import WorkerRecord, WorkerState
from llorch.wire import events

STATUS = {
    JobState.ADMITTING: "queued",
    JobState.QUEUED: "queued",
    JobState.DISPATCHED: "running",
    JobState.RUNNING: "running",
    JobState.CANCELLING: "running",
    JobState.COMPLETED: "completed",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
}
LOADING = "loading"
STATUSES = ("queued", LOADING, "running", "completed", "failed", "cancelled")


def states_of(status: str) -> list[JobState]:
    """The durable states that show, or may show, as `status`."""
    status = "queued" if status == LOADING else status
    return [state for state, shown in STATUS.items() if shown == status and state is not JobState.ADMITTING]


def events_url(job_id: str) -> str:
    """Where a job's events are, below the orchestrator's address."""
    return f"/v2/tasks/{job_id}/events"


def place(position: QueuePlace | None) -> dict[str, Any]:
    """A queued job's place; nothing for one that does not wait."""
    if position is None:
        return {"queue_position": None, "eta_ms": None}
    return {"queue_position": position.queue_position, "eta_ms": _ms(position.eta_s)}


def job(record: JobRecord, position: QueuePlace | None, loading: Loading | None = None) -> dict[str, Any]:
    """One job without its text; while a worker for it is on its way it shows as loading, with how far that is."""
    spec, ending = record.spec, record.ending
    result = ending.result if ending is not None else None
    return {
        "job_id": spec.job_id,
        "status": STATUS[record.state] if loading is None else LOADING,
        **place(position),
        "loading": None if loading is None else _loading(loading),
        "model": record.model or spec.model,
        "priority": spec.priority.value,
        "session_id": spec.session_id,
        "worker_id": record.worker_id,
        "attempts": record.attempts,
        "accepted_at": clock.iso(record.accepted_at),
        "started_at": _iso(record.started_at),
        "first_token_at": _iso(record.first_token_at),
        "ended_at": _iso(record.ended_at),
        "queue_wait_ms": _between(record.accepted_at, record.dispatched_at),
        "ttft_ms": _between(record.accepted_at, record.first_token_at),
        "usage": {
            "prompt_tokens": result.prompt_tokens if result is not None else spec.prompt_tokens,
            "tokens_out": result.tokens_out if result is not None else None,
            "decode_time_ms": result.decode_time_ms if result is not None else None,
        },
        "stop_reason": result.stop_reason if result is not None else None,
        "seed": spec.seed,
        "prompt_sha256": spec.prompt_sha256,
        "cancel_requested": record.cancel_requested,
        "error": _error(record),
        "events_url": events_url(spec.job_id),
    }


def _loading(loading: Loading) -> dict[str, Any]:
    return {"model": loading.model, "progress": round(loading.progress, 3), "eta_ms": _ms(loading.eta_s)}


def _error(record: JobRecord) -> dict[str, Any] | None:
    ending = record.ending
    if ending is None or ending.error_code is None:
        return None
    return {"code": ending.error_code, "message": ending.error_message, "retriable": ending.retriable}


def terminal_event(ending: Ending) -> dict[str, object]:
    """The one `end` or `error` event of a job."""
    if ending.state is JobState.FAILED:
        return events.error(
            ending.error_code or InferenceFailed.code,
            ending.error_message or "the job failed",
            retriable=ending.retriable,
            retry_after_ms=_ms(ending.retry_after_s),
        )
    result = ending.result or Result(events.StopReason.CANCELLED.value)
    return events.end(
        result.stop_reason,
        tokens_out=result.tokens_out,
        decode_time_ms=result.decode_time_ms,
        prompt_tokens=result.prompt_tokens,
        ttft_ms=result.ttft_ms,
        seed=result.seed,
    )


def decision(line: Decision) -> dict[str, Any]:
    """One line of `explain`."""
    return {
        "at": clock.iso(line.at),
        "kind": line.kind,
        "chosen": line.chosen,
        "refused": dict(line.reasons),
        "note": line.note,
    }


def worker(record: WorkerRecord, now: float) -> dict[str, Any]:
    """One worker."""
    spec = record.spec
    return {
        "worker_id": spec.worker_id,
        "url": spec.url,
        "pool": spec.pool,
        "model": spec.model,
        "backend": spec.backend,
        "state": record.state.value,
        "slots_total": spec.slots_total,
        "slots_busy": max(record.slots_used, record.load.slots_busy),
        "context_length": spec.context_length,
        "vram_bytes": record.load.vram_bytes or spec.vram_bytes,
        "tokens_per_s": record.load.tokens_per_s,
        "version": spec.version,
        "protocol": spec.protocol,
        "protocol_ok": spec.protocol_ok,
        "announced_at": clock.iso(record.announced_at),
        "lease_left_s": max(0.0, round(record.lease_until - now, 3)),
        "lost_reason": record.lost_reason,
    }


def models(workers: list[WorkerRecord]) -> list[dict[str, Any]]:
    """What can be served: one row per model, from all its workers."""
    rows: dict[str, dict[str, Any]] = {}
    for record in workers:
        row = rows.setdefault(
            record.spec.model,
            {"id": record.spec.model, "state": "unavailable", "workers": 0, "slots_total": 0, "slots_busy": 0}
            | {"context_length": None},
        )
        if record.state is not WorkerState.READY or not record.spec.protocol_ok:
            continue
        row["state"] = "ready"
        row["workers"] += 1
        row["slots_total"] += record.spec.slots_total
        row["slots_busy"] += max(record.slots_used, record.load.slots_busy)
        row["context_length"] = max(row["context_length"] or 0, record.spec.context_length)
    return [rows[model] for model in sorted(rows)]


def session(record: SessionRecord) -> dict[str, Any]:
    """One open session."""
    return {
        "session_id": record.session_id,
        "ttl_s": record.limits.ttl_s,
        "tokens_max": record.limits.tokens_max,
        "time_max_s": record.limits.time_max_s,
        "opened_at": clock.iso(record.opened_at),
        "used_at": clock.iso(record.used_at),
        "expires_at": clock.iso(record.used_at + record.limits.ttl_s),
        "turns": record.turns,
        "tokens_used": record.tokens_used,
        "time_used_s": round(record.time_used_s, 3),
    }


def usage(now: TenantUsage, stored: list[UsageRecord]) -> dict[str, Any]:
    """What a tenant has and took, the newest day first; today's figures are the brain's, ahead of what is stored."""
    today = now.today
    days = [today, *(record for record in reversed(stored) if record.day < today.day)]
    return {
        "tenant": today.tenant,
        "now": {"running": now.running, "waiting": now.waiting, "reserved_tokens": now.reserved},
        "limits": asdict(now.limits),
        "days": [
            {
                "day": clock.iso(record.day * DAY_S)[:10],
                "jobs": record.jobs,
                "prompt_tokens": record.prompt_tokens,
                "tokens_out": record.tokens_out,
            }
            for record in days
        ],
    }


def _iso(at: float | None) -> str | None:
    return None if at is None else clock.iso(at)


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _between(start: float, end: float | None) -> int | None:
    return None if end is None else max(0, round((end - start) * 1000))
