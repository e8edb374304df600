"""What orchestratord and a worker say to each other: the execute body and the worker's events."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from llorch.base import ids
from llorch.wire.fields import Fields
from llorch.wire.logprobs import TokenLogprob
from llorch.wire.messages import Message, read_prompt_or_messages
from llorch.wire.sampling import SAMPLING_FIELDS, Sampling, read_sampling
from llorch.wire.tasks import MAX_TOKENS_MAX

DEADLINE_HEADER = "X-Deadline"
CORRELATION_HEADER = "X-Correlation-Id"
RESUME_IDS_MAX = 1_000_000
_CODE = re.compile(r"[A-Z_]{1,64}")


class StopReason(StrEnum):
    """Why a worker of ours ended a sequence; others may have words of their own."""

    MAX_TOKENS = "MAX_TOKENS"
    EOS = "EOS"
    STOP_SEQUENCE = "STOP_SEQUENCE"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class Resume:
    """Token ids already relayed to the client, and the index the next frame gets."""

    token_ids: tuple[int, ...] = ()
    next_i: int = 0


@dataclass(frozen=True, slots=True)
class ExecuteRequest:
    """A checked `/execute` body. `max_tokens` counts the resumed ids too; None means 256 capped by the context."""

    job_id: str
    prompt: str | None
    messages: tuple[Message, ...]
    max_tokens: int | None
    sampling: Sampling
    resume: Resume = field(default_factory=Resume)

    def to_body(self) -> dict[str, Any]:
        """The JSON body a worker takes."""
        body: dict[str, Any] = {"job_id": self.job_id, **self.sampling.to_body()}
        if self.max_tokens is not None:
            body["max_tokens"] = self.max_tokens
        if self.prompt is not None:
            body["prompt"] = self.prompt
        else:
            body["messages"] = [message.to_body() for message in self.messages]
        if self.resume.token_ids:
            body["resume"] = {"token_ids": list(self.resume.token_ids), "next_i": self.resume.next_i}
        return body


FIELDS = ("job_id", "prompt", "messages", "max_tokens", *SAMPLING_FIELDS, "resume")


def parse_execute(body: dict[str, Any]) -> ExecuteRequest:
    """Check an `/execute` body. Raises InvalidRequest with every problem in its details."""
    fields = Fields(body, FIELDS)
    if not fields.has("job_id"):
        fields.problem("job_id", "is required")
    prompt, messages = read_prompt_or_messages(fields)
    request = ExecuteRequest(
        job_id=fields.pattern("job_id", ids.JOB_ID) or "",
        prompt=prompt,
        messages=messages,
        max_tokens=fields.integer("max_tokens", 1, MAX_TOKENS_MAX),
        sampling=read_sampling(fields),
        resume=_read_resume(fields),
    )
    fields.done()
    return request


def _read_resume(fields: Fields) -> Resume:
    raw = fields.raw("resume")
    if raw is None:
        return Resume()
    if not isinstance(raw, dict):
        fields.problem("resume", "must be an object with token_ids and next_i")
        return Resume()
    inner = Fields(raw, ("token_ids", "next_i"))
    next_i = inner.integer("next_i", 0, RESUME_IDS_MAX) or 0
    token_ids = raw.get("token_ids", [])
    if (
        not isinstance(token_ids, list)
        or len(token_ids) > RESUME_IDS_MAX
        or not all(isinstance(t, int) and not isinstance(t, bool) and t >= 0 for t in token_ids)
    ):
        inner.problem("token_ids", "must be a list of token ids")
        token_ids = []
    for problem in inner.problems:
        fields.problem(f"resume.{problem['field']}", problem["message"])
    return Resume(tuple(token_ids), next_i)


def parse_cancel(body: dict[str, Any]) -> str:
    """The job id of a `/cancel` body."""
    fields = Fields(body, ("job_id",))
    if not fields.has("job_id"):
        fields.problem("job_id", "is required")
    job_id = fields.pattern("job_id", ids.JOB_ID) or ""
    fields.done()
    return job_id


def parse_tokenize(body: dict[str, Any]) -> tuple[str | None, tuple[Message, ...]]:
    """The prompt or messages of a `/tokenize` body."""
    fields = Fields(body, ("prompt", "messages"))
    content = read_prompt_or_messages(fields)
    fields.done()
    return content


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
