"""Loads a model directory into a runner; everything that can be refused is refused before memory is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llorch.batching.plan import Draw, Row
from llorch.batching.planner import STEP_TOKENS_MAX
from llorch.batching.sequence import SamplingParams
from llorch.batching.speculation import DRAFTS_MAX
from llorch.host import process
from llorch.model import loaded, memory
from llorch.model.checkpoint import Checkpoint
from llorch.model.choice import Choice, NativeKernels, choose
from llorch.model.config import ModelConfig, read_config
from llorch.model.kernels import packing
from llorch.model.loaded import Capabilities, Dtype, Kernels, LoadedModel, Quantize
from llorch.model.memory import Room
from llorch.model.recipe import Recipe, read_recipe
from llorch.model.runner import Runner
from llorch.model.tokenizer import Tokenizer

PROBE_TOKENS = 24


def load_model(
    directory: Path,
    *,
    kernels: Kernels = Kernels.AUTO,
    native: NativeKernels = NativeKernels(),
    quantize: Quantize = Quantize.NONE,
    dtype: Dtype = Dtype.AUTO,
    slots: int = 8,
    context: int | None = None,
    threads: int | None = None,
    active: Callable[[int], int] = lambda threads: threads,
    kv_bytes: int | None = None,
    torch_needed: Callable[[], object] = lambda: None,
    progress: Callable[[float], None] = lambda share: None,
) -> LoadedModel:
    """Load a directory with config.json, tokenizer.json and safetensors shards.

    `context` None takes the model's own, or as much of it as memory allows (at least 2048 positions); `kv_bytes` None
    bounds the cache by memory alone; `threads` None takes every processor allowed, or one for a small model, and
    `active(threads)` is asked before each step how many of them may compute. `torch_needed` is called before torch is
    imported, if it is. `progress` gets 0 to 1 from the calling thread.
    Raises InvalidModel, InsufficientMemory and ConfigError.
    """
    config = read_config(directory)
    checkpoint = Checkpoint(directory)
    recipe = read_recipe(config, checkpoint)
    choice = choose(config, recipe, checkpoint, kernels=kernels, dtype=dtype, quantize=quantize, native=native)
    weights_bytes = _weights_bytes(recipe, choice)
    room = memory.fit(
        config,
        weights_bytes=weights_bytes,
        value_bytes=choice.dtype.size_bytes,
        slots=slots,
        context=context,
        kv_bytes=kv_bytes,
    )
    if threads is None:
        threads = 1 if weights_bytes < loaded.SMALL_MODEL_BYTES else process.processors_allowed()
    progress(0.0)
    tokenizer = Tokenizer(directory)
    loading = _Loading(config, checkpoint, recipe, choice, room, threads, lambda share: progress(share * 0.95))
    runner = loading.graph(torch_needed) if choice.library is None else loading.native(choice.library, slots, active)
    exact = choice.library is not None or (
        runner.promises_row_invariance and _is_row_invariant(runner, config, room.blocks)
    )
    progress(1.0)
    isa = None if choice.isa is None else choice.isa.value
    used = Kernels.TORCH if choice.library is None else Kernels.NATIVE
    return LoadedModel(
        config=config,
        tokenizer=tokenizer,
        runner=runner,
        capabilities=Capabilities(exact, choice.dtype.value, used.value, isa, choice.quantize.value),
        weights_bytes=weights_bytes,
        context_length=room.context,
        slots=slots,
        kv_blocks=room.blocks,
        threads=threads,
        obstacle=choice.obstacle,
    )


def _weights_bytes(recipe: Recipe, choice: Choice) -> int:
    """Bytes of weights in memory. The native kernels read the embedding's rows from the mapped file."""
    values = recipe.values if choice.library is None else recipe.values - recipe.embedding.values
    return values * choice.weight_bytes


class _Loading:
    """What both ways of making a runner need."""

    def __init__(
        self,
        config: ModelConfig,
        checkpoint: Checkpoint,
        recipe: Recipe,
        choice: Choice,
        room: Room,
        threads: int,
        progress: Callable[[float], None],
    ) -> None:
        self._config = config
        self._checkpoint = checkpoint
        self._recipe = recipe
        self._choice = choice
        self._room = room
        self._threads = threads
        self._progress = progress

    def graph(self, torch_needed: Callable[[], object]) -> Runner:
        """On torch."""
        torch_needed()
        from llorch.model import graph

        return graph.load(
            self._config,
            self._recipe,
            dtype=self._choice.dtype,
            room=self._room,
            threads=self._threads,
            progress=self._progress,
        )

    def native(self, library: Path, slots: int, active: Callable[[int], int]) -> Runner:
        """On the native kernels."""
        return packing.load(
            self._config,
            self._recipe,
            self._checkpoint,
            path=library,
            int8=self._choice.quantize is Quantize.INT8,
            room=self._room,
            rows_max=slots * (1 + DRAFTS_MAX) + STEP_TOKENS_MAX,
            threads=self._threads,
            active=lambda: active(self._threads),
            progress=self._progress,
        )


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
