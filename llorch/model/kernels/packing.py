"""Builds the native engine of a model: its weights go from the mapped checkpoint into packed memory, once."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

from llorch.base.errors import InsufficientMemory
from llorch.model.checkpoint import Checkpoint, StoredTensor
from llorch.model.config import ModelConfig
from llorch.model.kernels import library as native
from llorch.model.kernels.library import STORED_TYPES, MatrixSlot, VectorSlot
from llorch.model.kernels.runner import Runner
from llorch.model.memory import Room
from llorch.model.recipe import LayerRecipe, Matrix, Part, Recipe

UNIT = 16  # sizes that the kernels compute in whole vectors of
HEAD_DIM_MAX = 512
GROUP_MAX = 48


def misfit(config: ModelConfig, recipe: Recipe) -> str | None:
    """Why the kernels cannot compute a model of this shape; None when they can."""
    if any(layer.gate_up.bias or layer.down.bias for layer in recipe.layers):
        return "its feed-forward layers have biases"
    for layer in recipe.layers:
        for matrix in (layer.qkv, layer.output, layer.gate_up, layer.down):
            if len({part.tensor.dtype for part in matrix.parts}) > 1:
                return "parts of one matrix are stored in different dtypes"
    for name, size in (("hidden size", config.hidden_size), ("head size", config.head_dim)):
        if size % UNIT:
            return f"its {name} {size} is no multiple of {UNIT}"
    if config.head_dim > HEAD_DIM_MAX:
        return f"its heads are larger than {HEAD_DIM_MAX}"
    if config.heads // config.kv_heads > GROUP_MAX:
        return f"more than {GROUP_MAX} query heads share a key-value head"
    return None


def load(
    config: ModelConfig,
    recipe: Recipe,
    checkpoint: Checkpoint,
    *,
    path: Path,
    int8: bool,
    room: Room,
    rows_max: int,
    threads: int,
    active: Callable[[], int],
    progress: Callable[[float], None],
) -> Runner:
    """A runner on the library at `path`, with a team of `threads` of which `active()` compute in a step.

    `rows_max` bounds the tokens of a step. Raises HostError, InvalidModel and InsufficientMemory.
    """
    library = native.open_library(path)
    shape = native.Shape(
        layers=config.layers,
        hidden=config.hidden_size,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        rotary_dim=config.rope.rotary_dim,
        intermediate=config.intermediate_size,
        vocab=config.vocab_size,
        blocks=room.blocks,
        rows_max=rows_max,
        draws_max=rows_max,
        int8=int8,
        head_norms=recipe.layers[0].q_norm is not None,
        frequency_sets=1 if config.long_from is None else 2,
        norm_eps=config.norm_eps,
    )
    engine = library.llorch_create(ctypes.byref(shape), threads)
    if not engine:
        raise InsufficientMemory(
            "the system refused the memory for weights and cache: try less --context, --slots or --kv-mib"
        )
    packer = _Packer(library, engine, checkpoint, recipe.values, progress)
    for index, layer in enumerate(recipe.layers):
        packer.layer(index, layer)
    packer.matrix(MatrixSlot.HEAD, 0, recipe.head)
    packer.vector(VectorSlot.FINAL_NORM, 0, recipe.norm)
    packer.rotary(config)
    packer.embedding(recipe.embedding)
    return Runner(library, engine, shape, checkpoint, active)


class _Packer:
    """Feeds one engine; a matrix's mapped pages are given back as soon as it is packed."""

    def __init__(
        self,
        library: ctypes.CDLL,
        engine: int,
        checkpoint: Checkpoint,
        values: int,
        progress: Callable[[float], None],
    ) -> None:
        self._library = library
        self._engine = engine
        self._checkpoint = checkpoint
        self._values = values
        self._packed = 0
        self._progress = progress

    def layer(self, index: int, recipe: LayerRecipe) -> None:
        """All weights of one layer."""
        self.matrix(MatrixSlot.QKV, index, recipe.qkv)
        self.matrix(MatrixSlot.OUTPUT, index, recipe.output)
        self.matrix(MatrixSlot.GATE_UP, index, recipe.gate_up)
        self.matrix(MatrixSlot.DOWN, index, recipe.down)
        self.vector(VectorSlot.ATTENTION_NORM, index, recipe.attention_norm)
        self.vector(VectorSlot.MLP_NORM, index, recipe.mlp_norm)
        if recipe.q_norm is not None and recipe.k_norm is not None:
            self.vector(VectorSlot.QUERY_NORM, index, recipe.q_norm)
            self.vector(VectorSlot.KEY_NORM, index, recipe.k_norm)
        self._bias(VectorSlot.QKV_BIAS, index, recipe.qkv)
        self._bias(VectorSlot.OUTPUT_BIAS, index, recipe.output)
        self._library.llorch_set_window(self._engine, index, recipe.window or 0)

    def matrix(self, slot: MatrixSlot, layer: int, matrix: Matrix) -> None:
        """Pack one matrix, with all threads."""
        parts = (native.Part * len(matrix.parts))()
        for row, part in zip(parts, matrix.parts, strict=True):
            row.data = self._address(part.tensor, part.rows.start * matrix.inputs)
            row.rows = len(part.rows)
        stored = STORED_TYPES[matrix.parts[0].tensor.dtype]
        self._library.llorch_pack(self._engine, slot, layer, parts, len(parts), stored)
        for part in matrix.parts:
            self._checkpoint.drop_pages(part.tensor)
        self._packed += matrix.outputs * matrix.inputs
        self._progress(min(1.0, self._packed / self._values))

    def vector(self, slot: VectorSlot, layer: int, tensor: StoredTensor) -> None:
        """A whole stored vector."""
        self._part(slot, layer, Part(tensor, range(tensor.values)), 0)

    def rotary(self, config: ModelConfig) -> None:
        """The sets of frequencies, and the factor on cosine and sine of each."""
        rope = config.rope
        frequencies = list(rope.frequencies())
        factors = [rope.attention_factor]
        if config.long_from is not None:
            frequencies += rope.frequencies(stretch=True)
            factors *= 2
        self._floats(VectorSlot.FREQUENCIES, frequencies)
        self._floats(VectorSlot.ROTARY_FACTORS, factors)

    def embedding(self, tensor: StoredTensor) -> None:
        """Rows are read from the mapped file as tokens come."""
        self._library.llorch_set_embedding(self._engine, self._address(tensor, 0), STORED_TYPES[tensor.dtype])

    def _bias(self, slot: VectorSlot, layer: int, matrix: Matrix) -> None:
        at = 0
        for part in matrix.bias:
            self._part(slot, layer, part, at)
            at += len(part.rows)

    def _part(self, slot: VectorSlot, layer: int, part: Part, at: int) -> None:
        data = self._address(part.tensor, part.rows.start)
        stored = STORED_TYPES[part.tensor.dtype]
        self._library.llorch_set_vector(self._engine, slot, layer, data, stored, at, len(part.rows))

    def _floats(self, slot: VectorSlot, values: list[float]) -> None:
        held = (ctypes.c_float * len(values))(*values)
        self._library.llorch_set_vector(self._engine, slot, 0, held, STORED_TYPES["F32"], 0, len(values))

    def _address(self, tensor: StoredTensor, values: int) -> int:
        """The address of a mapped tensor's value number `values`."""
        with self._checkpoint.mapped(tensor) as view:
            return native.address_of(view) + values * (tensor.size_bytes // tensor.values)
