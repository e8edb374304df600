"""Loads a model directory into a runner; everything that can be refused is refused before memory is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch

from llorch.base.errors import InsufficientMemory, InvalidModel
from llorch.batching.blocks import BLOCK_POSITIONS, blocks_for
from llorch.batching.planner import Draw, Row
from llorch.batching.sequence import SamplingParams
from llorch.host import process
from llorch.model import hardware
from llorch.model.attention import EXACT, FUSED, Attention
from llorch.model.checkpoint import Checkpoint
from llorch.model.config import ModelConfig, read_config
from llorch.model.decoder import Decoder
from llorch.model.families import FAMILIES
from llorch.model.kv_cache import KvCache
from llorch.model.runner import Runner
from llorch.model.sampler import Sampler
from llorch.model.tokenizer import Tokenizer
from llorch.model.weights import read_weights

CONTEXT_FLOOR = 2048
MEMORY_SHARE = 0.9
WORKSPACE_BYTES = 64 << 20
SMALL_MODEL_BYTES = 64 << 20
"""Below this (in fp32) a model lives in the caches of one core: a second one costs more than it saves, and so would
giving up exactness for bf16.
"""

PREFILL_CHUNK_SMALL = 256
PREFILL_CHUNK_LARGE = 128
PROBE_TOKENS = 24


class Dtype(Enum):
    """AUTO is bf16 for a model stored so, unless it is small, on a processor that computes bf16 natively; else fp32."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this loaded model promises. `row_invariant`: the same bits alone, beside others, chunked and resumed, on
    the same machine and build; it was tried on this very model while loading.
    """

    row_invariant: bool
    dtype: str
    kernels: str = "torch"
    sampling: tuple[str, ...] = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")

    def to_body(self) -> dict[str, Any]:
        """As JSON fields, for `/health`."""
        return {
            "row_invariant": self.row_invariant,
            "dtype": self.dtype,
            "kernels": self.kernels,
            "sampling": list(self.sampling),
            "families": sorted(FAMILIES),
        }


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run. `context_length` is in positions of one slot; torch computes with `threads`."""

    config: ModelConfig
    tokenizer: Tokenizer
    runner: Runner
    capabilities: Capabilities
    weights_bytes: int
    context_length: int
    slots: int
    threads: int

    @property
    def kv_bytes(self) -> int:
        """Cache memory in use: it grows with the positions used and is never given back."""
        return self.runner.kv_resident_bytes

    @property
    def step_tokens(self) -> int:
        """Positions to compute in one step at most: a token of every slot, and a chunk that stays short."""
        small = self.weights_bytes < SMALL_MODEL_BYTES
        return self.slots + (PREFILL_CHUNK_SMALL if small else PREFILL_CHUNK_LARGE)

    @property
    def eos_ids(self) -> frozenset[int]:
        """Every id that ends a text: of config.json, generation_config.json and the tokenizer."""
        return self.config.eos_ids | self.tokenizer.eos_ids

    @property
    def chat_template(self) -> object:
        """The model's own template as its files have it, for `wire.templates.own_template`; None when it has none."""
        return self.tokenizer.chat_template

    @property
    def special_tokens(self) -> dict[str, str]:
        """Role (`bos_token`, ...) to text."""
        return self.tokenizer.special_tokens


def load_model(
    directory: Path,
    *,
    dtype: Dtype = Dtype.AUTO,
    slots: int = 8,
    context: int | None = None,
    threads: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> LoadedModel:
    """Load a directory with config.json, tokenizer.json and safetensors shards.

    `context` None takes the model's own, or as much of it as memory allows (at least 2048 positions); `threads` None
    takes every processor allowed, or one for a small model. `progress` gets 0 to 1 from the calling thread.
    Raises InvalidModel and InsufficientMemory.
    """
    config = read_config(directory)
    tokenizer = Tokenizer(directory)
    checkpoint = Checkpoint(directory)
    chosen = _choose_dtype(dtype, checkpoint)
    tied_copy = config.vocab_size * config.hidden_size if config.tied_head else 0
    weights_bytes = (checkpoint.values + tied_copy) * chosen.itemsize
    context_length = _fit_context(config, weights_bytes, slots, context, chosen)
    if threads is None:
        threads = 1 if weights_bytes < SMALL_MODEL_BYTES else process.processors_allowed()
    torch.set_num_threads(threads)
    progress(0.0)
    weights = read_weights(config, checkpoint, chosen, lambda share: progress(share * 0.95))
    checkpoint.finish()
    cache = KvCache(config, slots=slots, context=context_length, dtype=chosen)
    attention = EXACT if chosen is torch.float32 else FUSED
    runner = Runner(Decoder(config, weights, cache, attention), cache, Sampler(config.vocab_size), threads)
    name = "fp32" if chosen is torch.float32 else "bf16"
    capabilities = Capabilities(_row_invariant(runner, attention, config, slots, context_length), name)
    progress(1.0)
    return LoadedModel(config, tokenizer, runner, capabilities, weights.size_bytes, context_length, slots, threads)


def _choose_dtype(dtype: Dtype, checkpoint: Checkpoint) -> torch.dtype:
    if dtype is Dtype.AUTO:
        large = checkpoint.values * torch.float32.itemsize >= SMALL_MODEL_BYTES
        pays = large and checkpoint.dtypes == {torch.bfloat16} and hardware.has_native_bf16()
        dtype = Dtype.BF16 if pays else Dtype.FP32
    elif dtype is Dtype.BF16 and not hardware.has_native_bf16():
        raise InvalidModel("this processor has no bf16 instructions: use fp32")
    return torch.bfloat16 if dtype is Dtype.BF16 else torch.float32


def _fit_context(config: ModelConfig, weights_bytes: int, slots: int, asked: int | None, dtype: torch.dtype) -> int:
    """Positions a slot gets. Raises InsufficientMemory when they, or the least useful number, do not fit."""
    if asked is not None and not 2 <= asked <= config.context_length:
        raise InvalidModel(f"context must be between 2 and the model's {config.context_length}")
    block_bytes = BLOCK_POSITIONS * config.kv_values_per_position * dtype.itemsize
    usable = int(process.available_memory_bytes() * MEMORY_SHARE) - WORKSPACE_BYTES
    least = asked or min(config.context_length, CONTEXT_FLOOR)
    need = weights_bytes + slots * blocks_for(least) * block_bytes
    if need > usable:
        raise InsufficientMemory(
            f"{need / 2**30:.1f} GiB are needed for weights and {slots} slots of {least} positions, "
            f"{max(0, usable) / 2**30:.1f} GiB are available"
        )
    if asked is not None:
        return asked
    fitting = (usable - weights_bytes) // (slots * block_bytes) * BLOCK_POSITIONS
    return min(config.context_length, int(fitting))


def _row_invariant(runner: Runner, attention: Attention, config: ModelConfig, slots: int, context: int) -> bool:
    """Try it: the last of some positions alone, in a whole prefill, and beside another slot's rows."""
    if not attention.row_invariant:
        return False
    count = min(PROBE_TOKENS, context)
    ids = tuple((7 * index + 1) % config.vocab_size for index in range(count))
    draw = Draw(SamplingParams(), 0)
    whole = runner.logits((Row("probe", 0, 0, ids, draw),))
    last = Row("probe", 0, count - 1, ids[-1:], draw)
    alone = runner.logits((last,))
    neighbour = Row("beside", slots - 1, 0, ids[:-1], None)
    beside = runner.logits((last, neighbour)) if slots > 1 else alone
    return torch.equal(whole, alone) and torch.equal(whole, beside)
