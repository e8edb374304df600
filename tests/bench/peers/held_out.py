"""Stories that no training saw, as token ids: from the grammar in build/demo_model, with a seed of their own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random

from llorch.model import SpecialTokens, Tokenizer

ROOT = Path(__file__).resolve().parents[3]
DEMO = ROOT / "llorch" / "assets" / "demo"
TRAINING = ROOT / "build" / "demo_model"
SEED = 90_001  # training takes 7, and 1,000 to 3,001 beyond it


@dataclass(frozen=True, slots=True)
class Text:
    """Token ids; `learned` are the positions of those that the model was trained to say, never the first."""

    ids: tuple[int, ...]
    learned: tuple[int, ...]


def texts(tokenizer: Tokenizer, tokens_min: int, seed: int = SEED) -> list[Text]:
    """Whole documents of the training's mixture, until they have so many tokens together."""
    if str(TRAINING) not in sys.path:
        sys.path.append(str(TRAINING))
    import samples

    chance = Random(seed)
    found: list[Text] = []
    while sum(len(text.ids) for text in found) < tokens_min:
        ids: list[int] = []
        learned: list[int] = []
        for part in samples.sample(chance):
            piece = tokenizer.encode(part.text, SpecialTokens.LEAVE)
            learned += range(len(ids), len(ids) + len(piece)) if part.learned else ()
            ids += piece
        found.append(Text(tuple(ids), tuple(at for at in learned if at)))
    return found
