"""What a program asks for: one value, turned into the body of `POST /v2/tasks`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llorch.wire.tasks import Placement, Priority

__all__ = ["InferenceRequest", "Placement", "Priority"]


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """One inference request; None leaves the choice to orchestratord.

    `prompt` is sent raw, `messages` (role and content each) go through the model's template; give one of them.
    `logit_bias` maps token ids to what is added to their logits; with `logprobs` N every token is reported with its
    log probability and those of the N likeliest. Durations are milliseconds from acceptance. The server checks all
    values and reports every problem at once.
    """

    prompt: str | None = None
    messages: Sequence[Mapping[str, str]] | None = None
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[int, float] | None = None
    logprobs: int | None = None
    stop: str | Sequence[str] | None = None
    seed: int | None = None
    priority: Priority | None = None
    session_id: str | None = None
    deadline_ms: int | None = None
    timeout_ms: int | None = None
    placement: Placement | None = None
    idempotency_key: str | None = None

    def to_body(self) -> dict[str, Any]:
        """The JSON body, without the fields that are None."""
        body: dict[str, Any] = {name: value for name in _PLAIN if (value := getattr(self, name)) is not None}
        if self.messages is not None:
            body["messages"] = [dict(message) for message in self.messages]
        if self.logit_bias is not None:
            body["logit_bias"] = {str(token_id): bias for token_id, bias in self.logit_bias.items()}
        if self.stop is not None:
            body["stop"] = self.stop if isinstance(self.stop, str) else list(self.stop)
        if self.priority is not None:
            body["priority"] = self.priority.value
        if self.placement is not None:
            body["placement"] = _placement_body(self.placement)
        return body


_PLAIN = (
    "prompt",
    "model",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logprobs",
    "seed",
    "session_id",
    "deadline_ms",
    "timeout_ms",
    "idempotency_key",
)


def _placement_body(placement: Placement) -> dict[str, Any]:
    body: dict[str, Any] = {"allow_fallback": placement.allow_fallback}
    if placement.pin_pool is not None:
        body["pin_pool"] = placement.pin_pool
    if placement.pin_worker is not None:
        body["pin_worker"] = placement.pin_worker
    if placement.prefer_pools:
        body["prefer_pools"] = list(placement.prefer_pools)
    if placement.avoid_pools:
        body["avoid_pools"] = list(placement.avoid_pools)
    return body
