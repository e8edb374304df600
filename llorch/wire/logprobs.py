"""What is said of a drawn token beside its id: its log probability, and those of the likeliest tokens at its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LOGPROBS_MAX = 20
LOGPROB_MIN = -9999.0  # JSON has no infinity, and no nan
_SANE_MAX = 1e6
LOGPROB_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Likely:
    """A token that might have been drawn."""

    id: int
    logprob: float

    def to_body(self) -> dict[str, Any]:
        """The JSON object."""
        return {"id": self.id, "logprob": _plain(self.logprob)}


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A drawn token; `top` are the likeliest at its place, the likeliest first."""

    id: int
    logprob: float
    top: tuple[Likely, ...] = ()

    def to_body(self) -> dict[str, Any]:
        """The JSON object."""
        return {"id": self.id, "logprob": _plain(self.logprob), "top": [likely.to_body() for likely in self.top]}


def _plain(logprob: float) -> float:
    return round(logprob, LOGPROB_DIGITS) if logprob > LOGPROB_MIN else LOGPROB_MIN


def read_logprobs(value: object) -> tuple[TokenLogprob, ...]:
    """The `logprobs` of a token event; empty when there are none or they have not this form."""
    if not isinstance(value, list):
        return ()
    found = tuple(token for item in value if (token := _read_token(item)) is not None)
    return found if len(found) == len(value) else ()


def _read_token(item: object) -> TokenLogprob | None:
    drawn = _read_likely(item)
    top = item.get("top") if isinstance(item, dict) else None
    if drawn is None or not isinstance(top, list):
        return None
    likely = tuple(one for other in top if (one := _read_likely(other)) is not None)
    return TokenLogprob(drawn.id, drawn.logprob, likely) if len(likely) == len(top) <= LOGPROBS_MAX else None


def _read_likely(item: object) -> Likely | None:
    if not isinstance(item, dict):
        return None
    token_id, logprob = item.get("id"), item.get("logprob")
    if type(token_id) is not int or token_id < 0:
        return None
    if isinstance(logprob, bool) or not isinstance(logprob, (int, float)) or abs(logprob) > _SANE_MAX:
        return None
    return Likely(token_id, float(logprob))
