"""What a loaded model thinks of given texts: logits at every position, perplexity, distance from a reference."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from peers.held_out import Text
from torch.nn import functional

from llorch import model
from llorch.batching.blocks import blocks_for
from llorch.batching.plan import Draw, Row
from llorch.batching.sequence import SamplingParams
from llorch.host import runtime
from llorch.model import Dtype, Kernels, LoadedModel, Quantize
from llorch.model.config import read_config
from llorch.model.kernels.library import Isa

CHUNK = 128
CONTEXT = 2048
CLEAR_GAP = 0.1
ANY = Draw(SamplingParams(), 0)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What computes, in which numbers; `isa` None is the variant a worker would take."""

    kernels: Kernels = Kernels.NATIVE
    dtype: Dtype = Dtype.BF16
    quantize: Quantize = Quantize.NONE
    isa: Isa | None = None


@contextmanager
def opened(directory: Path, arithmetic: Arithmetic, threads: int) -> Iterator[LoadedModel]:
    """A model for one sequence; its memory is given back at the end."""
    isa = os.environ.get("LLORCH_CPU_ISA") if arithmetic.isa is None else arithmetic.isa.value
    loaded = model.load_model(
        directory,
        kernels=arithmetic.kernels,
        native=model.NativeKernels(runtime.kernels_dir(), isa),
        dtype=arithmetic.dtype,
        quantize=arithmetic.quantize,
        slots=1,
        context=min(CONTEXT, read_config(directory).context_length),
        threads=threads,
    )
    try:
        yield loaded
    finally:
        loaded.runner.close()
        del loaded
        gc.collect()


def random_texts(vocab: int, tokens: int) -> list[Text]:
    """One text of random tokens, for random weights."""
    chance = Random(1)
    return [Text(tuple(chance.randrange(vocab) for _ in range(tokens)), ())]


def logits(loaded: LoadedModel, text: Text) -> Iterator[torch.Tensor]:
    """Chunk by chunk [positions, vocab] fp32: what is to follow each token."""
    for start in range(0, len(text.ids), CHUNK):
        ids = text.ids[start : start + CHUNK]
        blocks = tuple(range(blocks_for(start + len(ids))))
        found = loaded.runner.logits((Row("score", start, ids, (ANY,) * len(ids), blocks),))
        if not isinstance(found, torch.Tensor):
            found = torch.frombuffer(bytearray(found), dtype=torch.float32).view(len(ids), -1)
        yield found.float()


def all_logits(loaded: LoadedModel, texts: Sequence[Text]) -> Iterator[torch.Tensor]:
    """Of all texts, one chunk after the other."""
    for text in texts:
        yield from logits(loaded, text)


def perplexity(loaded: LoadedModel, texts: Sequence[Text]) -> float:
    """exp of the mean negative log-likelihood of the texts' learned tokens."""
    total, count = 0.0, 0
    for text in texts:
        learned = set(text.learned)
        before = 0
        for chunk in logits(loaded, text):
            rows = [row for row in range(len(chunk)) if before + row + 1 in learned]
            targets = torch.tensor([text.ids[before + row + 1] for row in rows], dtype=torch.int64)
            if rows:
                total += functional.cross_entropy(chunk[rows].double(), targets, reduction="sum").item()
            count += len(rows)
            before += len(chunk)
    return float(torch.tensor(total / count, dtype=torch.float64).exp())


@dataclass(frozen=True, slots=True)
class Compared:
    """The likeliest token at each position, and how far the logits are from the reference on average."""

    likeliest: tuple[int, ...]
    mean_abs_error: float


def compare(found: Iterable[torch.Tensor], reference: Sequence[torch.Tensor]) -> Compared:
    """Chunk for chunk."""
    likeliest: list[int] = []
    total, count = 0.0, 0
    for chunk, right in zip(found, reference, strict=True):
        likeliest += chunk.argmax(-1).tolist()
        total += (chunk - right).abs().sum(dtype=torch.float64).item()
        count += right.numel()
    return Compared(tuple(likeliest), total / count)


def is_clear(reference: Sequence[torch.Tensor]) -> tuple[bool, ...]:
    """Per position: is the likeliest token ahead of the next by more than rounding may change?"""
    clear: list[bool] = []
    for chunk in reference:
        first, second = chunk.topk(2, -1).values.unbind(-1)
        clear += (first - second > CLEAR_GAP).tolist()
    return tuple(clear)


def agreement(one: Compared, other: Compared, counted: Sequence[bool]) -> float:
    """The share of the counted positions where both find the same token likeliest."""
    pairs = [a == b for a, b, counts in zip(one.likeliest, other.likeliest, counted, strict=True) if counts]
    return sum(pairs) / len(pairs)
