"""The sampling parameters shared by tasks and execute requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llorch.base.ids import SEED_MAX
from llorch.wire.fields import Fields

STOP_COUNT_MAX = 4
STOP_SIZE_MAX = 1024
SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop", "seed")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. `seed` None: minted by whoever accepts the request, and recorded."""

    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def to_body(self) -> dict[str, Any]:
        """The fields as they go into a request body."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "stop": list(self.stop),
            "seed": self.seed,
        }


def read_sampling(fields: Fields) -> Sampling:
    """The sampling fields of a body; problems are noted in `fields`. top_k 0 means off."""
    base = Sampling()

    def number(name: str, low: float, high: float, default: float) -> float:
        value = fields.number(name, low, high)
        return default if value is None else value

    return Sampling(
        temperature=number("temperature", 0.0, 2.0, base.temperature),
        top_p=number("top_p", 0.0, 1.0, base.top_p),
        top_k=fields.integer("top_k", 0, 1_000_000) or 0,
        min_p=number("min_p", 0.0, 1.0, base.min_p),
        repetition_penalty=number("repetition_penalty", 0.1, 10.0, base.repetition_penalty),
        stop=_read_stop(fields),
        seed=fields.integer("seed", 0, SEED_MAX),
    )


def _read_stop(fields: Fields) -> tuple[str, ...]:
    raw = fields.raw("stop")
    items = (raw,) if isinstance(raw, str) else fields.texts("stop", count_max=STOP_COUNT_MAX)
    for item in items:
        if not item or len(item.encode("utf-8")) > STOP_SIZE_MAX:
            fields.problem("stop", f"each stop string must have 1 to {STOP_SIZE_MAX} bytes")
            return ()
    return tuple(items)
