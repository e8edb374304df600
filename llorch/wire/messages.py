"""A conversation: role and content, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llorch.wire.fields import Fields

ROLES = ("system", "user", "assistant", "tool")
PROMPT_SIZE_MAX = 4 << 20
MESSAGE_COUNT_MAX = 2048


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str

    def to_body(self) -> dict[str, Any]:
        """The message as JSON fields."""
        return {"role": self.role, "content": self.content}


def read_prompt_or_messages(fields: Fields) -> tuple[str | None, tuple[Message, ...]]:
    """Exactly one of `prompt` (string) and `messages`; problems are noted in `fields`."""
    if fields.has("prompt") == fields.has("messages"):
        fields.problem("prompt", "exactly one of 'prompt' and 'messages' is required")
        return "", ()
    if fields.has("messages"):
        return None, _read_messages(fields)
    prompt = fields.text("prompt", size_max=PROMPT_SIZE_MAX)
    if prompt == "":
        fields.problem("prompt", "must not be empty")
    return prompt or "", ()


def _read_messages(fields: Fields) -> tuple[Message, ...]:
    raw = fields.raw("messages")
    if not isinstance(raw, list) or not 1 <= len(raw) <= MESSAGE_COUNT_MAX:
        fields.problem("messages", f"must be a list of 1 to {MESSAGE_COUNT_MAX} objects with role and content")
        return ()
    messages = []
    for number, item in enumerate(raw):
        where = f"messages[{number}]"
        if not isinstance(item, dict) or set(item) - {"role", "content", "name"}:
            fields.problem(where, "must be an object with role and content")
        elif item.get("role") not in ROLES:
            fields.problem(f"{where}.role", "must be one of " + ", ".join(ROLES))
        elif not isinstance(item.get("content"), str):
            fields.problem(f"{where}.content", "must be a string")
        else:
            messages.append(Message(item["role"], item["content"]))
    if sum(len(message.content.encode("utf-8")) for message in messages) > PROMPT_SIZE_MAX:
        fields.problem("messages", f"must hold at most {PROMPT_SIZE_MAX} bytes of content")
    return tuple(messages)
