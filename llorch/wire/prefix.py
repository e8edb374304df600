"""Names for the beginnings of a prompt, so that a job can go to the worker that has its beginning in the cache.

A digest names everything from the start up to one point, so equal digests mean equal beginnings. Worker and
orchestrator compute them from the same JSON content, whatever the model. The points are the same ones in a longer
text: two prompts that begin alike share every digest of what is alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from llorch.wire.messages import Message

STEP = 512
DIGESTS_MAX = 32
DIGEST = re.compile(r"[0-9a-f]{16}")
_DIGEST_BYTES = 8
_DENSE = 8


def digests(prompt: str | None, messages: Sequence[Message]) -> tuple[str, ...]:
    """The digests of a raw prompt or of a conversation, the shortest beginning first; at most 32.

    A prompt has one per 512 whole characters. A conversation has one per message, from the message on that completes
    its first 512 characters: less is computed anew sooner than it is worth a second job on one worker, and many chats
    begin with the same few words.
    """
    if prompt is not None:
        return _chain(b"prompt", [prompt[at : at + STEP].encode() for at in range(0, len(prompt) - STEP + 1, STEP)])
    return _chain(b"messages", _turns(messages))


def digests_of_body(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The same from the checked fields of a task or execute body."""
    messages = [Message(message["role"], message["content"]) for message in body.get("messages") or ()]
    return digests(body.get("prompt"), messages)


def _turns(messages: Sequence[Message]) -> list[bytes]:
    """The conversation in pieces that end with a message; with lengths, so that no content looks like a border."""
    turns = []
    begun, size = "", 0
    for message in messages:
        begun += f"{len(message.role)},{len(message.content)},{message.role}{message.content}"
        size += len(message.content)
        if size >= STEP:
            turns.append(begun.encode())
            begun = ""
    return turns


def _chain(kind: bytes, parts: list[bytes]) -> tuple[str, ...]:
    points = _points(len(parts))
    hasher = blake2b(kind, digest_size=_DIGEST_BYTES)
    found = []
    for number, part in enumerate(parts, 1):
        hasher.update(part)
        if number in points:
            found.append(hasher.copy().hexdigest())
    return tuple(found)


def _points(count: int) -> set[int]:
    """Which of `count` ends get a digest: all, or the first 8, two per doubling from there on, and the last ones.

    The former are the same whatever the length, so of any common beginning at least two thirds are named in both
    texts; the last ones name a text that is continued.
    """
    if count <= DIGESTS_MAX:
        return set(range(1, count + 1))
    points = set(range(1, _DENSE + 1))
    doubled = _DENSE
    while doubled < count:
        points |= {end for end in (doubled * 3 // 2, doubled * 2) if end <= count}
        doubled *= 2
    last = (end for end in range(count, 0, -1) if end not in points)
    return points | {end for end, _ in zip(last, range(DIGESTS_MAX - len(points)), strict=False)}
