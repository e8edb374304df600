"""Showing a stream of events to a person (text on stdout, figures on stderr) or to a program (one JSON per line)."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict
from enum import Enum

from llorch.base.errors import LlorchError
from llorch.client.events import End, ErrorEvent, InferenceEvent, Queued, Token
from llorch.remote import terminal

CANCELLED = 1


class Form(Enum):
    TEXT = "text"
    JSON = "json"


def show(events: Iterable[InferenceEvent], form: Form) -> int:
    """Show a whole stream; the exit code: 0 when it ended well, 1 when somebody cancelled it.

    Raises the error that the stream ended with. `ttft` is what this client saw, from its request to the first text.
    """
    began = time.monotonic()
    first: float | None = None
    last_text = "\n"
    for event in events:
        if form is Form.JSON:
            terminal.write_json({"type": type(event).__name__.removesuffix("Event").lower(), **asdict(event)})
        if isinstance(event, Token):
            first = first or time.monotonic()
            last_text = event.t or last_text
            if form is Form.TEXT:
                terminal.write(event.t)
        elif isinstance(event, Queued) and event.queue_position > 0 and form is Form.TEXT:
            terminal.tell(f"{event.job_id}: {event.queue_position} ahead in the queue")
        elif isinstance(event, (End, ErrorEvent)):
            if form is Form.TEXT and first is not None and not last_text.endswith("\n"):
                terminal.write("\n")
            return _finish(event, None if first is None else first - began)
    raise LlorchError("the stream ended without saying how")


def figures(end: End, ttft_s: float | None) -> str:
    """How an answer went, in a line; `ttft_s` is what this client saw."""
    speed = end.tokens_out * 1000 / end.decode_time_ms if end.decode_time_ms else None
    parts = [
        f"{end.tokens_out} tokens",
        "ttft -" if ttft_s is None else f"ttft {ttft_s * 1000:.0f} ms",
        "- tok/s" if speed is None else f"{speed:.1f} tok/s",
        end.stop_reason,
    ]
    return ", ".join(parts)


def _finish(event: End | ErrorEvent, ttft_s: float | None) -> int:
    if isinstance(event, ErrorEvent):
        raise event.to_error()
    terminal.tell(figures(event, ttft_s))
    return CANCELLED if event.stop_reason == "CANCELLED" else 0
