"""Loads a model directory into a runner; everything that can be refused is refused before memory is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llorch.base.errors import InvalidModel
from llorch.batching.plan import Draw, Row
from llorch.batching.sequence import SamplingParams
from llorch.host import process
from llorch.model import hardware, loaded, memory
from llorch.model.checkpoint import Checkpoint
from llorch.model.config import ModelConfig, read_config
from llorch.model.loaded import Capabilities, Dtype, Kernels, LoadedModel, Quantize
from llorch.model.recipe import read_recipe
from llorch.model.runner import Runner
from llorch.model.tokenizer import Tokenizer

PROBE_TOKENS = 24


def load_model(
    directory: Path,
    *,
    kernels: Kernels = Kernels.AUTO,
    quantize: Quantize = Quantize.NONE,
    dtype: Dtype = Dtype.AUTO,
    slots: int = 8,
    context: int | None = None,
    threads: int | None = None,
    kv_bytes: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
    before_torch: Callable[[], object] = lambda: None,
) -> LoadedModel:
    """Load a directory with config.json, tokenizer.json and safetensors shards.

    `context` None takes the model's own, or as much of it as memory allows (at least 2048 positions); `kv_bytes` None
    bounds the cache by memory alone; `threads` None takes every processor allowed, or one for a small model.
    `progress` gets 0 to 1 from the calling thread; `before_torch` is called when torch is about to be imported, and may
    make it importable. Raises InvalidModel, InsufficientMemory, and what `before_torch` raises.
    """
    config = read_config(directory)
    tokenizer = Tokenizer(directory)
    checkpoint = Checkpoint(directory)
    recipe = read_recipe(config, checkpoint)
    _choose_kernels(kernels, quantize)
    chosen = _choose_dtype(dtype, checkpoint)
    weights_bytes = recipe.values * chosen.size_bytes
    room = memory.fit(
        config,
        weights_bytes=weights_bytes,
        value_bytes=chosen.size_bytes,
        slots=slots,
        context=context,
        kv_bytes=kv_bytes,
    )
    if threads is None:
        threads = 1 if weights_bytes < loaded.SMALL_MODEL_BYTES else process.processors_allowed()
    progress(0.0)
    before_torch()
    from llorch.model import graph

    runner = graph.load(config, recipe, dtype=chosen, room=room, threads=threads, progress=lambda s: progress(s * 0.95))
    exact = runner.promises_row_invariance and _is_row_invariant(runner, config, room.blocks)
    progress(1.0)
    return LoadedModel(
        config=config,
        tokenizer=tokenizer,
        runner=runner,
        capabilities=Capabilities(exact, chosen.value, Kernels.TORCH.value),
        weights_bytes=weights_bytes,
        context_length=room.context,
        slots=slots,
        kv_blocks=room.blocks,
        threads=threads,
    )


def _choose_kernels(kernels: Kernels, quantize: Quantize) -> Kernels:
    """The kernels to use. Raises InvalidModel when what is asked for is not there."""
    if kernels is Kernels.TORCH and quantize is not Quantize.NONE:
        raise InvalidModel("the torch graph computes with unquantized weights only: use the native kernels for int8")
    if kernels is Kernels.NATIVE or quantize is not Quantize.NONE:
        _native_library()
        return Kernels.NATIVE
    return Kernels.TORCH


def _native_library() -> Path:
    """The shared library of the native kernels. Raises InvalidModel when this build has none for this processor."""
    raise InvalidModel("the native kernels are not built")


def _choose_dtype(dtype: Dtype, checkpoint: Checkpoint) -> Dtype:
    if dtype is Dtype.AUTO:
        large = checkpoint.values * Dtype.FP32.size_bytes >= loaded.SMALL_MODEL_BYTES
        pays = large and checkpoint.dtypes == {"BF16"} and hardware.has_native_bf16()
        return Dtype.BF16 if pays else Dtype.FP32
    if dtype is Dtype.BF16 and not hardware.has_native_bf16():
        raise InvalidModel("this processor has no bf16 instructions: use fp32")
    return dtype


def _is_row_invariant(runner: Runner, config: ModelConfig, blocks: int) -> bool:
    """Try it: the last of some positions alone, in a whole prefill, and beside another sequence's rows."""
    count = min(PROBE_TOKENS, config.context_length)
    ids = tuple((7 * index + 1) % config.vocab_size for index in range(count))
    draws = (Draw(SamplingParams(), 0),)
    whole = runner.logits((Row("probe", 0, ids, draws, (0,)),)).tolist()
    last = Row("probe", count - 1, ids[-1:], draws, (0,))
    if runner.logits((last,)).tolist() != whole:
        return False
    neighbour = Row("beside", 0, ids[:-1], (), (blocks - 1,))
    return blocks == 1 or bool(runner.logits((last, neighbour)).tolist() == whole)
