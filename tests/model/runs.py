"""Rows for a runner by hand: blocks, draws and whole generations without the planner."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from tiny_models import VOCAB

from llorch.batching.blocks import blocks_for
from llorch.batching.plan import Draw, Row, StepPlan
from llorch.batching.sequence import SamplingParams
from llorch.model import LoadedModel, Runner

GREEDY = Draw(SamplingParams(temperature=0.0), 0)


def prompt(length: int, seed: int = 1) -> tuple[int, ...]:
    """Random token ids."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(0, VOCAB, (length,), generator=generator).tolist())


def row(
    ids: tuple[int, ...], start: int, stop: int, blocks: tuple[int, ...], *, draws: int = 1, stretch: bool = False
) -> Row:
    """Positions start..stop of a sequence `ids` that lives in `blocks`; its last `draws` positions ask for logits."""
    return Row(f"job{blocks[0]}", start, ids[start:stop], (GREEDY,) * draws, blocks[: blocks_for(stop)], stretch)


def logits(runner: Runner, *rows: Row) -> torch.Tensor:
    """[draws of all rows, vocab] fp32; rows without any draw are just computed."""
    if not any(part.draws for part in rows):
        runner.run(StepPlan(rows))
        return torch.empty(0, VOCAB)
    return torch.tensor(runner.logits(rows).tolist())


@dataclass
class Text:
    """A sequence being generated: its blocks, its sampling and how far it is computed."""

    prompt_ids: tuple[int, ...]
    blocks: tuple[int, ...]
    max_tokens: int
    params: SamplingParams
    resumed: tuple[int, ...] = ()
    computed: int = 0
    drawn: list[int] = field(default_factory=list)

    @property
    def ids(self) -> tuple[int, ...]:
        """Everything so far."""
        return (*self.prompt_ids, *self.resumed, *self.drawn)

    @property
    def generated(self) -> tuple[int, ...]:
        """What was generated, by an earlier worker too."""
        return (*self.resumed, *self.drawn)

    def row(self, chunk: int) -> Row:
        """The next at most `chunk` positions, with a draw when they are the last."""
        ids = self.ids
        stop = min(len(ids), self.computed + chunk)
        draws = (Draw(self.params, len(self.generated), ids, len(self.prompt_ids)),) if stop == len(ids) else ()
        return Row(f"job{self.blocks[0]}", self.computed, ids[self.computed : stop], draws, self.blocks)


def generate(model: LoadedModel, texts: list[Text], chunk: int) -> None:
    """Run all texts to their end, all at once."""
    while live := [text for text in texts if len(text.generated) < text.max_tokens]:
        rows = tuple(text.row(chunk) for text in live)
        for text, part, drawn in zip(live, rows, model.runner.run(StepPlan(rows)), strict=True):
            text.computed += len(part.token_ids)
            text.drawn += [token.token_id for token in drawn]
