"""The sampling parameters shared by tasks and execute requests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from llorch.base.ids import SEED_MAX
from llorch.wire.fields import Fields
from llorch.wire.logprobs import LOGPROBS_MAX

STOP_COUNT_MAX = 4
STOP_SIZE_MAX = 1024
PENALTY_MAX = 2.0
BIAS_MAX = 100.0
BIAS_COUNT_MAX = 1024
NUMBERS = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.1, 10.0),
    "presence_penalty": (-PENALTY_MAX, PENALTY_MAX),
    "frequency_penalty": (-PENALTY_MAX, PENALTY_MAX),
}
"""The smallest and the largest value of those that are plain numbers."""
SAMPLING_FIELDS = (*NUMBERS, "top_k", "logit_bias", "logprobs", "stop", "seed")
# One way to write an id, so that no two keys mean the same token.
_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. `seed` None: minted by whoever accepts the request, and recorded.

    `logit_bias` are (token id, what is added to its logit), by id. `logprobs`: how many of the likeliest tokens to
    report beside each drawn one; None reports nothing.
    """

    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def to_body(self) -> dict[str, Any]:
        """The fields as they go into a request body; those that a first worker did not know only when they are on."""
        body: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "stop": list(self.stop),
            "seed": self.seed,
        }
        if self.presence_penalty:
            body["presence_penalty"] = self.presence_penalty
        if self.frequency_penalty:
            body["frequency_penalty"] = self.frequency_penalty
        if self.logit_bias:
            body["logit_bias"] = {str(token_id): bias for token_id, bias in self.logit_bias}
        if self.logprobs is not None:
            body["logprobs"] = self.logprobs
        return body


_PLAIN = Sampling()


def read_sampling(fields: Fields) -> Sampling:
    """The sampling fields of a body; problems are noted in `fields`. top_k 0 means off."""
    present = fields.among(SAMPLING_FIELDS)
    if not present:
        return _PLAIN
    numbers = [(name, fields.number(name, *NUMBERS[name])) for name in present if name in NUMBERS]
    return Sampling(
        **{name: value for name, value in numbers if value is not None},
        top_k=fields.integer("top_k", 0, 1_000_000) or 0,
        logit_bias=_read_bias(fields),
        logprobs=fields.integer("logprobs", 0, LOGPROBS_MAX),
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


def _read_bias(fields: Fields) -> tuple[tuple[int, float], ...]:
    raw = fields.raw("logit_bias")
    if raw is None:
        return ()
    if not isinstance(raw, dict) or len(raw) > BIAS_COUNT_MAX:
        fields.problem("logit_bias", f"must be an object of at most {BIAS_COUNT_MAX} token ids, each with a number")
        return ()
    biases: dict[int, float] = {}
    for key, bias in raw.items():
        if not _TOKEN_ID.fullmatch(str(key)) or int(key) in biases:
            fields.problem("logit_bias", "keys must be token ids, each once")
            return ()
        if isinstance(bias, bool) or not isinstance(bias, (int, float)) or not -BIAS_MAX <= bias <= BIAS_MAX:
            fields.problem("logit_bias", f"values must be numbers between {-BIAS_MAX:g} and {BIAS_MAX:g}")
            return ()
        biases[int(key)] = float(bias)
    return tuple(sorted(biases.items()))
