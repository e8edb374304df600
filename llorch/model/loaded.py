"""A model ready to run, and how its loading may be chosen."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from llorch.batching.blocks import BLOCK_POSITIONS, blocks_for
from llorch.batching.planner import STEP_TOKENS_MAX
from llorch.batching.speculation import DRAFTS_MAX
from llorch.model.config import ModelConfig
from llorch.model.families import FAMILIES
from llorch.model.runner import Runner
from llorch.model.tokenizer import Tokenizer

SMALL_MODEL_BYTES = 64 << 20
"""Below this a model lives in the caches of one core: a second one costs more than it saves. On the torch graph, where
bf16 is not exact, one that is as small in fp32 computes in fp32.
"""

IDLE_BYTES_MAX = 1 << 30
CHEAP_ROWS = {"amx": 16, "avx512": 10, "avx2": 4}
PREFILL_CHUNK_SMALL = 256
PREFILL_CHUNK_LARGE = 128
SAMPLING = (
    *("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("logit_bias", "logprobs", "seed"),
)


class Dtype(Enum):
    """AUTO is bf16 on the native kernels for a model stored in half precision, and on the torch graph for a large one
    stored in bf16 where the processor computes bf16 natively; else fp32. The native kernels have no fp32.
    """

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"

    @property
    def size_bytes(self) -> int:
        """Bytes of a value; AUTO has none."""
        return {Dtype.FP32: 4, Dtype.BF16: 2}[self]


class Kernels(Enum):
    """Which runner computes. AUTO takes the native kernels where they fit the processor, the model and the dtype, else
    the torch graph.
    """

    AUTO = "auto"
    TORCH = "torch"
    NATIVE = "native"


class Quantize(Enum):
    """How weights are stored while they are used. INT8 is for the native kernels."""

    NONE = "none"
    INT8 = "int8"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this loaded model promises. `row_invariant`: the same bits alone, beside others, chunked and resumed, on
    the same machine and build. The native kernels are made so; on the torch graph it was tried on this very model while
    loading. `isa` is the native kernels' variant.
    """

    row_invariant: bool
    dtype: str
    kernels: str
    isa: str | None = None
    quantize: str = Quantize.NONE.value
    sampling: tuple[str, ...] = SAMPLING

    def to_body(self) -> dict[str, Any]:
        """As JSON fields, for `/health`."""
        return {
            "row_invariant": self.row_invariant,
            "dtype": self.dtype,
            "kernels": self.kernels,
            "isa": self.isa,
            "quantize": self.quantize,
            "sampling": list(self.sampling),
            "families": sorted(FAMILIES),
        }


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run with `threads` threads.

    `context_length` is in positions of one sequence. `kv_blocks` blocks of 128 positions are there for all slots
    together: at least one whole context, and fewer than `slots` whole contexts where memory is short. `obstacle`: why
    the native kernels do not compute it, though torch was not asked for.
    """

    config: ModelConfig
    tokenizer: Tokenizer
    runner: Runner
    capabilities: Capabilities
    weights_bytes: int
    context_length: int
    slots: int
    kv_blocks: int
    threads: int
    obstacle: str | None = None

    @property
    def kv_bytes(self) -> int:
        """Cache memory in use: it grows with the blocks used and is never given back."""
        return self.runner.kv_resident_bytes

    @property
    def step_tokens(self) -> int:
        """Prompt tokens to compute in one step at most."""
        if self.capabilities.kernels == Kernels.NATIVE.value:
            return STEP_TOKENS_MAX
        return PREFILL_CHUNK_SMALL if self.weights_bytes < SMALL_MODEL_BYTES else PREFILL_CHUNK_LARGE

    @property
    def idle_blocks_max(self) -> int:
        """Cache blocks kept for later sequences only: a whole context, or a GiB where that is more."""
        block_bytes = BLOCK_POSITIONS * self.config.kv_values_per_position * Dtype(self.capabilities.dtype).size_bytes
        return max(blocks_for(self.context_length), IDLE_BYTES_MAX // block_bytes)

    @property
    def drafts_max(self) -> int:
        """Tokens to draft for one sequence: none where a pass over several rows does not give each the same bits."""
        return DRAFTS_MAX if self.capabilities.row_invariant else 0

    @property
    def cheap_rows(self) -> int | None:
        """Rows a pass may have before arithmetic, not reading the weights, takes its time; None: not known."""
        return CHEAP_ROWS.get(self.capabilities.isa or "")

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
