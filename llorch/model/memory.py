"""How much context and how many cache blocks a model gets; refuses before anything large is taken."""

from __future__ import annotations

from dataclasses import dataclass

from llorch.base.errors import InsufficientMemory, InvalidModel
from llorch.batching.blocks import BLOCK_POSITIONS, blocks_for
from llorch.host import process
from llorch.model.config import ModelConfig

CONTEXT_FLOOR = 2048
MEMORY_SHARE = 0.9
WORKSPACE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Room:
    """`context` positions for a sequence; `blocks` of 128 positions for all sequences together."""

    context: int
    blocks: int


def fit(
    config: ModelConfig, *, weights_bytes: int, value_bytes: int, slots: int, context: int | None, kv_bytes: int | None
) -> Room:
    """Room for `slots` sequences beside the weights, cached values taking `value_bytes` each.

    `context` None takes the model's own, or as much as fits for all slots (at least 2048 positions). Where memory, or
    `kv_bytes`, is too little for every slot's context, the slots share fewer blocks, but one whole context at least.
    Raises InsufficientMemory when that does not fit, InvalidModel for a context that the model does not have.
    """
    if context is not None and not 2 <= context <= config.context_length:
        raise InvalidModel(f"context must be between 2 and the model's {config.context_length}")
    block_bytes = BLOCK_POSITIONS * config.kv_values_per_position * value_bytes
    usable = int(process.available_memory_bytes() * MEMORY_SHARE) - WORKSPACE_BYTES
    least = context or min(config.context_length, CONTEXT_FLOOR)
    need = weights_bytes + blocks_for(least) * block_bytes
    if need > usable:
        raise InsufficientMemory(
            f"{_gib(need)} GiB are needed for weights and a context of {least} positions, "
            f"{_gib(max(0, usable))} GiB are available"
        )
    blocks = (usable - weights_bytes) // block_bytes
    if kv_bytes is not None:
        blocks = min(blocks, kv_bytes // block_bytes)
    if blocks < blocks_for(least):
        raise InsufficientMemory(
            f"a context of {least} positions needs {-(-blocks_for(least) * block_bytes // (1 << 20))} MiB of cache: "
            f"allow more (--kv-mib) or ask for less (--context)"
        )
    if context is None:
        context = min(config.context_length, max(least, blocks // slots * BLOCK_POSITIONS))
    return Room(context, min(blocks, slots * blocks_for(context)))


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f}"
