"""What passes between the planner and a runner: the next forward pass as a frozen value, and what it drew."""

from __future__ import annotations

from dataclasses import dataclass

from llorch.batching.sequence import SamplingParams, StopReason


@dataclass(frozen=True, slots=True)
class Draw:
    """A token to be drawn after one position of a row. `index` counts generated tokens from 0, resumed ones included.

    `history` is every token id up to that position, of which the first `prompt_length` are the prompt's; it is empty
    unless a penalty needs it.
    """

    params: SamplingParams
    index: int
    history: tuple[int, ...] = ()
    prompt_length: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """Consecutive tokens of one sequence, at positions `start`, `start` + 1, ...

    `draws` belong to the row's last positions: none for a chunk in the middle of a prompt, one for its end and for
    plain decoding, one more for each drafted token that is to be verified. `blocks` are the numbers of the cache
    blocks that hold positions 0.. of the sequence, 128 positions each, up to the row's end. `stretch` picks the
    model's second set of rotary frequencies (for models that have one: `ModelConfig.long_from`).
    """

    key: str
    start: int
    token_ids: tuple[int, ...]
    draws: tuple[Draw, ...]
    blocks: tuple[int, ...]
    stretch: bool = False

    @property
    def positions(self) -> range:
        """The positions this row computes."""
        return range(self.start, self.start + len(self.token_ids))


@dataclass(frozen=True, slots=True)
class Copy:
    """The first `positions` positions of block `source` go into block `target` before the rows are computed."""

    source: int
    target: int
    positions: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One forward pass: decode rows, then prefill chunks. False when there is nothing to do."""

    rows: tuple[Row, ...] = ()
    copies: tuple[Copy, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.rows)

    @property
    def token_count(self) -> int:
        """Positions computed by this step."""
        return sum(len(row.token_ids) for row in self.rows)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A drawn token. `logprob` and `top` (id, logprob; likeliest first) are of the model's own distribution, before
    penalties, bias and temperature; None and empty unless `SamplingParams.logprobs` asked for them.
    """

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step, a cancel or a finish did to one sequence: tokens appended, and the reason when it ended."""

    key: str
    drawn: tuple[Drawn, ...]
    tokens_out: int
    stop_reason: StopReason | None = None

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The ids appended."""
        return tuple(drawn.token_id for drawn in self.drawn)


class Interrupted(Exception):
    """The step was interrupted: it drew nothing, and the positions it was to compute are still to be computed."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)
