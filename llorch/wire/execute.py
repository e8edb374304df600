"""What orchestratord asks a worker for: the bodies of `/execute`, `/cancel` and `/tokenize`, and two headers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llorch.base import ids
from llorch.wire.fields import Fields
from llorch.wire.messages import Message, read_prompt_or_messages
from llorch.wire.sampling import SAMPLING_FIELDS, Sampling, read_sampling
from llorch.wire.tasks import MAX_TOKENS_MAX

DEADLINE_HEADER = "X-Deadline"
CORRELATION_HEADER = "X-Correlation-Id"
RESUME_IDS_MAX = 1_000_000


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
