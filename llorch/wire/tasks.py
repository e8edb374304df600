"""The body of `POST /v2/tasks`: every field checked once, all problems reported together."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from llorch.base import ids
from llorch.wire.fields import Fields
from llorch.wire.messages import Message, read_prompt_or_messages
from llorch.wire.sampling import SAMPLING_FIELDS, Sampling, read_sampling

MAX_TOKENS_DEFAULT = 256
MAX_TOKENS_MAX = 1_000_000
DURATION_MS_MAX = 7 * 24 * 3600 * 1000
PINS_MAX = 64
POOL_NAME_MAX = 255


class Priority(Enum):
    INTERACTIVE = "interactive"
    BATCH = "batch"


class Delivery(Enum):
    """How the answer goes back: 202 and an events URL, the stream itself, or one JSON answer when finished."""

    ACCEPTED = "accepted"
    STREAM = "stream"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Placement:
    """The client's wishes about where a job runs."""

    pin_pool: str | None = None
    pin_worker: str | None = None
    prefer_pools: tuple[str, ...] = ()
    avoid_pools: tuple[str, ...] = ()
    allow_fallback: bool = True


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """A checked task body. Durations are milliseconds from acceptance; `max_tokens` None means min(256, context)."""

    prompt: str | None
    messages: tuple[Message, ...]
    model: str | None
    max_tokens: int | None
    sampling: Sampling
    priority: Priority
    session_id: str | None
    deadline_ms: int | None
    timeout_ms: int | None
    placement: Placement
    idempotency_key: str | None
    delivery: Delivery
    detach: bool

    @property
    def prompt_bytes(self) -> int:
        """UTF-8 size of the prompt or of all message contents."""
        if self.prompt is not None:
            return len(self.prompt.encode("utf-8"))
        return sum(len(m.content.encode("utf-8")) + len(m.role) for m in self.messages)

    def content_body(self) -> dict[str, Any]:
        """`prompt` or `messages` plus the sampling fields, as the worker takes them."""
        body: dict[str, Any] = self.sampling.to_body()
        if self.prompt is not None:
            body["prompt"] = self.prompt
        else:
            body["messages"] = [message.to_body() for message in self.messages]
        return body


FIELDS = (
    "prompt",
    "messages",
    "model",
    "max_tokens",
    *SAMPLING_FIELDS,
    "priority",
    "session_id",
    "deadline_ms",
    "timeout_ms",
    "placement",
    "idempotency_key",
    "stream",
    "wait",
    "detach",
)
_KNOWN = dict.fromkeys(FIELDS)
_PRIORITIES = tuple(priority.value for priority in Priority)
_PLACEMENT_FIELDS = ("pin_pool", "pin_worker", "prefer_pools", "avoid_pools", "allow_fallback")


def parse_task(body: dict[str, Any], *, accept_stream: bool = False) -> TaskRequest:
    """Check a task body. `accept_stream`: the request's Accept header names text/event-stream.

    Raises InvalidRequest with every problem in its details.
    """
    fields = Fields(body, _KNOWN)
    prompt, messages = read_prompt_or_messages(fields)
    stream, wait = fields.switch("stream"), fields.switch("wait")
    if wait and (stream or accept_stream):
        fields.problem("wait", "cannot be combined with a stream")
    request = TaskRequest(
        prompt=prompt,
        messages=messages,
        model=fields.pattern("model", ids.MODEL_ID),
        max_tokens=fields.integer("max_tokens", 1, MAX_TOKENS_MAX),
        sampling=read_sampling(fields),
        priority=Priority(fields.choice("priority", _PRIORITIES) or Priority.INTERACTIVE.value),
        session_id=fields.pattern("session_id", ids.SESSION_ID),
        deadline_ms=fields.integer("deadline_ms", 1, DURATION_MS_MAX),
        timeout_ms=fields.integer("timeout_ms", 1, DURATION_MS_MAX),
        placement=_read_placement(fields),
        idempotency_key=fields.pattern("idempotency_key", ids.SESSION_ID),
        delivery=Delivery.WAIT if wait else Delivery.STREAM if stream or accept_stream else Delivery.ACCEPTED,
        detach=fields.switch("detach"),
    )
    fields.done()
    return request


ANYWHERE = Placement()


def _read_placement(fields: Fields) -> Placement:
    raw = fields.raw("placement")
    if raw is None:
        return ANYWHERE
    if not isinstance(raw, dict):
        fields.problem("placement", "must be an object")
        return Placement()
    inner = Fields(raw, _PLACEMENT_FIELDS)
    pin_pool = inner.text("pin_pool", size_max=POOL_NAME_MAX)
    placement = Placement(
        pin_pool=None if pin_pool is None else pool_name(pin_pool),
        pin_worker=inner.pattern("pin_worker", ids.WORKER_ID),
        prefer_pools=_pools(inner, "prefer_pools"),
        avoid_pools=_pools(inner, "avoid_pools"),
        allow_fallback=inner.switch("allow_fallback") if inner.has("allow_fallback") else True,
    )
    for problem in inner.problems:
        fields.problem(f"placement.{problem['field']}", problem["message"])
    return placement


def _pools(fields: Fields, name: str) -> tuple[str, ...]:
    return tuple(map(pool_name, fields.texts(name, count_max=PINS_MAX, size_max=POOL_NAME_MAX)))


def pool_name(text: str) -> str:
    """A pool is a host: its name has no case."""
    return text.lower()
