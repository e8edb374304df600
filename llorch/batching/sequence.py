"""A sequence: the token ids of one job while they are extended, and how far the model has got with them."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from enum import Enum


class SequenceState(Enum):
    """WAITING has no slot; PREFILL has positions left to compute; DECODE draws in every step."""

    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    FINISHED = "finished"


class StopReason(Enum):
    """Why a sequence ended; the values are the ones of the wire."""

    MAX_TOKENS = "MAX_TOKENS"
    EOS = "EOS"
    STOP_SEQUENCE = "STOP_SEQUENCE"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a token is drawn. temperature 0 is greedy; top_k 0, top_p 1, min_p 0, repetition_penalty 1 and the other
    penalties at 0 are off.

    `seed` is a uint64 and always set: whoever accepts the job mints it. `logit_bias` are (token id, added to its
    logit). `logprobs`: how many of the likeliest tokens to report beside each drawn one; None reports nothing.
    """

    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    seed: int = 0

    @property
    def penalised(self) -> bool:
        """True when the tokens so far change the next one's logits."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


@dataclass(slots=True)
class Sequence:
    """`key` is its name in the engine, not the job's: a job may come again while its earlier sequence leaves.

    `token_ids` = prompt, then resumed ids, then drawn ids. The end-of-sequence id is never appended nor counted.

    `resumed_ids` were drawn and relayed by an earlier worker: they count towards `max_tokens` and penalties, and the
    index of the next draw continues after them. `labels` name beginnings of the prompt, the longest last, for whoever
    looks for a worker that holds them. All other fields are the planner's to change: `computed` positions are in the
    cache, in `blocks`; `arrival` numbers the sequences as they came; `overtaken` counts those admitted before it
    though they came later.
    """

    key: str
    prompt_ids: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    eos_ids: frozenset[int] = frozenset()
    resumed_ids: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    token_ids: list[int] = field(init=False)
    state: SequenceState = field(init=False, default=SequenceState.WAITING)
    blocks: list[int] = field(init=False, default_factory=list)
    computed: int = field(init=False, default=0)
    stretch: bool = field(init=False, default=False)
    arrival: int = field(init=False, default=0)
    overtaken: int = field(init=False, default=0)
    preemptions: int = field(init=False, default=0)
    stop_reason: StopReason | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.token_ids = [*self.prompt_ids, *self.resumed_ids]

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt alone."""
        return len(self.prompt_ids)

    @property
    def tokens_out(self) -> int:
        """Generated tokens so far, resumed ones included."""
        return len(self.token_ids) - len(self.prompt_ids)

    @property
    def remaining(self) -> int:
        """Positions whose keys and values are not in the cache yet."""
        return len(self.token_ids) - self.computed

    @property
    def positions_max(self) -> int:
        """Cache positions it can ever need: the last token drawn is never fed back."""
        return self.prompt_length + self.max_tokens - 1


def common_length(first: Items[int], second: Items[int]) -> int:
    """How many ids both begin with."""
    pairs = zip(first, second, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
