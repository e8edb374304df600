"""The events of a job's stream as frozen values; shapes and field names are those of the wire."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from llorch.base.errors import LlorchError, by_code
from llorch.wire.logprobs import TokenLogprob, read_logprobs


@dataclass(frozen=True, slots=True)
class Queued:
    """Accepted and waiting; `queue_position` 0 means nobody is ahead."""

    job_id: str
    queue_position: int
    eta_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Loading:
    """A worker loads the model; `progress` runs from 0 to 1."""

    model: str
    progress: float
    eta_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """A worker took the job; `started_at` is ISO 8601 UTC. The last two are orchestratord's."""

    job_id: str
    model: str
    started_at: str
    worker_id: str | None = None
    queue_wait_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """The next piece of text: `t` is complete UTF-8, `i` counts pieces from 0 without a gap.

    `logprobs`: its tokens one by one, when the request asked for it.
    """

    t: str
    i: int
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Metrics:
    """Progress figures; some may be missing under load."""

    tokens_out: int
    decode_time_ms: int
    tokens_per_s: float
    vram_bytes: int


@dataclass(frozen=True, slots=True)
class End:
    """The good end. `stop_reason` is MAX_TOKENS, EOS, STOP_SEQUENCE or CANCELLED; `tokens_out` counts tokens."""

    tokens_out: int
    decode_time_ms: int
    stop_reason: str
    prompt_tokens: int | None = None
    ttft_ms: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """The bad end."""

    code: str
    message: str
    retriable: bool = False
    retry_after_ms: int | None = None

    def to_error(self) -> LlorchError:
        """The exception for callers that want one."""
        wait_s = None if self.retry_after_ms is None else self.retry_after_ms / 1000
        return by_code(self.code, self.message, retry_after_s=wait_s)


InferenceEvent: TypeAlias = Queued | Loading | Started | Token | Metrics | End | ErrorEvent

_BUILD: Mapping[str, Callable[[Mapping[str, Any]], InferenceEvent]] = {
    "queued": lambda d: Queued(str(d["job_id"]), int(d["queue_position"]), d.get("eta_ms")),
    "loading": lambda d: Loading(str(d["model"]), float(d["progress"]), d.get("eta_ms")),
    "started": lambda d: Started(
        str(d["job_id"]), str(d["model"]), str(d["started_at"]), d.get("worker_id"), d.get("queue_wait_ms")
    ),
    "token": lambda d: Token(str(d["t"]), int(d["i"]), read_logprobs(d.get("logprobs"))),
    "metrics": lambda d: Metrics(
        int(d["tokens_out"]), int(d["decode_time_ms"]), float(d["tokens_per_s"]), int(d["vram_bytes"])
    ),
    "end": lambda d: End(
        int(d["tokens_out"]),
        int(d["decode_time_ms"]),
        str(d["stop_reason"]),
        d.get("prompt_tokens"),
        d.get("ttft_ms"),
        d.get("seed"),
    ),
    "error": lambda d: ErrorEvent(
        str(d["code"]), str(d["message"]), bool(d.get("retriable", False)), d.get("retry_after_ms")
    ),
}


def from_wire(data: Mapping[str, Any]) -> InferenceEvent | None:
    """The event in a frame's JSON; None for a type this version does not know (a newer peer may say more).

    Raises LlorchError when a known event lacks a field.
    """
    build = _BUILD.get(str(data.get("type")))
    if build is None:
        return None
    try:
        return build(data)
    except (KeyError, TypeError, ValueError) as error:
        raise LlorchError(f"the stream holds a malformed '{data.get('type')}' event ({error})") from None
