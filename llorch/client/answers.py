"""Responses as values: what a status, its headers and its body mean. Pure.

Error bodies become the LlorchError class of their code; a body that is not ours still gives one clear error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llorch.base.errors import InvalidRequest, LlorchError, Unauthorized, Unavailable, Unreachable, by_code
from llorch.wire import strict_json

ANSWER_SIZE_MAX = 64 << 20
_PROBLEMS_SHOWN_MAX = 8


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Accepted:
    """The 202 of a submitted job; `queue_position` 0 means nobody is ahead."""

    job_id: str
    status: str
    queue_position: int | None
    events_url: str


def json_object(answer: Answer) -> dict[str, Any]:
    """The JSON object of a good answer. Raises the LlorchError of a bad one."""
    if not 200 <= answer.status < 300:
        raise error(answer)
    try:
        return strict_json.parse_object(answer.body)
    except InvalidRequest as problem:
        raise LlorchError(
            f"the service answered with something that is not a JSON object ({problem.message})"
        ) from None


def accepted(answer: Answer) -> Accepted:
    """The handle fields of a 202. Raises the LlorchError of a refusal."""
    body = json_object(answer)
    job_id = body.get("job_id")
    if not isinstance(job_id, str) or not job_id:
        raise LlorchError("the service accepted the job but gave no job_id")
    position = body.get("queue_position")
    return Accepted(
        job_id=job_id,
        status=str(body.get("status", "queued")),
        queue_position=position if isinstance(position, int) else None,
        events_url=str(body.get("events_url", "")),
    )


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Retry-After in seconds, when it is a number."""
    value = headers.get("retry-after", "").strip()
    return float(value) if value.isdigit() else None


def error(answer: Answer) -> LlorchError:
    """The error a bad answer reports; its `details` and correlation id are kept."""
    wait_s = retry_after_s(answer.headers)
    try:
        body: Any = strict_json.parse_object(answer.body)["error"]
        failure = by_code(str(body["code"]), _message(body), retry_after_s=wait_s)
        failure.details = body.get("details")
    except (InvalidRequest, KeyError, TypeError):
        return _foreign(answer.status, wait_s)
    return failure


def _foreign(status: int, wait_s: float | None) -> LlorchError:
    """An error answer without our body: a proxy, or not our service at all."""
    if status == 401:
        return Unauthorized()
    if status in (502, 503, 504):
        return Unavailable(f"the service answered HTTP {status}", retry_after_s=wait_s)
    return LlorchError(f"the service answered HTTP {status} without an error body; is this a llorch service?")


def _message(body: Mapping[str, Any]) -> str:
    """The message, followed by the problems of each field when the server listed them."""
    message = str(body.get("message") or "the service gave no reason")
    details = body.get("details")
    problems = details.get("problems") if isinstance(details, dict) else None
    if not isinstance(problems, list):
        return message
    listed = [
        f"{p['field']}: {p['message']}" for p in problems if isinstance(p, dict) and {"field", "message"} <= set(p)
    ]
    missing = [text for text in listed[:_PROBLEMS_SHOWN_MAX] if text not in message]
    return f"{message} ({'; '.join(missing)})" if missing else message


def unreachable(url: str, reason: object) -> Unreachable:
    """The one wording for a service that does not answer."""
    return Unreachable(f"{url} does not answer ({reason})")
