"""The events of a stream as JSON: those a worker sends, and `queued` and `loading`, which orchestratord adds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from llorch.wire.logprobs import TokenLogprob

_CODE = re.compile(r"[A-Z_]{1,64}")


class StopReason(StrEnum):
    """Why a worker of ours ended a sequence; others may have words of their own."""

    MAX_TOKENS = "MAX_TOKENS"
    EOS = "EOS"
    STOP_SEQUENCE = "STOP_SEQUENCE"
    CANCELLED = "CANCELLED"


def queued(job_id: str, queue_position: int, eta_ms: int | None) -> dict[str, Any]:
    """The first event of every orchestrator stream; repeated without an id when it changes."""
    return {"type": "queued", "job_id": job_id, "queue_position": queue_position, "eta_ms": eta_ms}


def loading(model: str, progress: float, eta_ms: int | None) -> dict[str, Any]:
    """A worker for the job is on its way; without an id."""
    return {"type": "loading", "model": model, "progress": round(progress, 3), "eta_ms": eta_ms}


def started(job_id: str, model: str, started_at: str) -> dict[str, Any]:
    """`started_at` is ISO 8601 UTC; the orchestrator adds worker_id and queue_wait_ms."""
    return {"type": "started", "job_id": job_id, "model": model, "started_at": started_at}


def token(text: str, index: int, token_ids: list[int], logprobs: Sequence[TokenLogprob] = ()) -> dict[str, Any]:
    """One piece of text made of whole tokens; `index` counts frames without a gap. `logprobs`: one per id, or none."""
    event: dict[str, Any] = {"type": "token", "t": text, "i": index, "ids": token_ids}
    if logprobs:
        event["logprobs"] = [logprob.to_body() for logprob in logprobs]
    return event


def metrics(tokens_out: int, decode_time_ms: int, tokens_per_s: float, vram_bytes: int) -> dict[str, Any]:
    """Progress figures; may be dropped under load."""
    return {
        "type": "metrics",
        "tokens_out": tokens_out,
        "decode_time_ms": decode_time_ms,
        "tokens_per_s": tokens_per_s,
        "vram_bytes": vram_bytes,
    }


def end(
    stop_reason: StopReason | str,
    *,
    tokens_out: int,
    decode_time_ms: int,
    prompt_tokens: int | None,
    ttft_ms: int | None,
    seed: int | None,
) -> dict[str, Any]:
    """The good terminal event; `tokens_out` counts generated tokens, resumed ones included."""
    return {
        "type": "end",
        "tokens_out": tokens_out,
        "decode_time_ms": decode_time_ms,
        "stop_reason": str(stop_reason),
        "prompt_tokens": prompt_tokens,
        "ttft_ms": ttft_ms,
        "seed": seed,
    }


def error_code(value: object) -> str | None:
    """The code of an error that a peer reports; None when it has not the form of one."""
    return value if isinstance(value, str) and _CODE.fullmatch(value) else None


def error(code: str, message: str, *, retriable: bool, retry_after_ms: int | None = None) -> dict[str, Any]:
    """The bad terminal event."""
    return {
        "type": "error",
        "code": code,
        "message": message,
        "retriable": retriable,
        "retry_after_ms": retry_after_ms,
    }
