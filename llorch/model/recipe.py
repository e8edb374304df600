"""Which stored tensors make up each weight matrix of a model: resolved and checked before a value is read.

Both packers (torch's and the native one) follow the same recipe, so that a family is described once.
"""

from __future__ import annotations

from dataclasses import dataclass

from llorch.base.errors import InvalidModel
from llorch.model.checkpoint import Checkpoint, StoredTensor
from llorch.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a stored matrix [n, k], or some values of a stored vector [n]."""

    tensor: StoredTensor
    rows: range


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight [n, `inputs`]: the rows of its parts one after the other, in the order its name says (q, k, v; gate,
    up), one part each even where the file has them in one tensor. `bias` [n] has parts likewise, or none.
    """

    inputs: int
    parts: tuple[Part, ...]
    bias: tuple[Part, ...] = ()

    @property
    def outputs(self) -> int:
        """Rows in all."""
        return sum(len(part.rows) for part in self.parts)


@dataclass(frozen=True, slots=True)
class LayerRecipe:
    """One layer. The norms are [hidden]; `q_norm` and `k_norm` [head_dim], over each head, where the family has them.

    `window`: its sliding window in positions, or None.
    """

    attention_norm: StoredTensor
    qkv: Matrix
    q_norm: StoredTensor | None
    k_norm: StoredTensor | None
    output: Matrix
    mlp_norm: StoredTensor
    gate_up: Matrix
    down: Matrix
    window: int | None


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole model. `head` is [vocab, hidden]; `tied` says that it is the `embedding` [vocab, hidden] once more."""

    embedding: StoredTensor
    layers: tuple[LayerRecipe, ...]
    norm: StoredTensor
    head: Matrix
    tied: bool

    @property
    def values(self) -> int:
        """Numbers in all weights; of a tied head once more, since it is packed beside the embedding."""
        tensors = [self.embedding, self.norm]
        parts = [*self.head.parts]
        for layer in self.layers:
            norms = (layer.attention_norm, layer.q_norm, layer.k_norm, layer.mlp_norm)
            tensors += [norm for norm in norms if norm is not None]
            for matrix in (layer.qkv, layer.output, layer.gate_up, layer.down):
                parts += [*matrix.parts, *matrix.bias]
        rows = sum(len(part.rows) * part.tensor.values // part.tensor.shape[0] for part in parts)
        return rows + sum(tensor.values for tensor in tensors)


def read_recipe(config: ModelConfig, checkpoint: Checkpoint) -> Recipe:
    """The recipe of a model directory. Raises InvalidModel for tensors that lack, have another shape or are left."""
    layers = tuple(_layer(config, checkpoint, index) for index in range(config.layers))
    vocabulary = (config.vocab_size, config.hidden_size)
    embedding = checkpoint.take("embed_tokens.weight", vocabulary)
    # A file with both means both, whatever config.json says of tying.
    head = checkpoint.take_if_stored("lm_head.weight", vocabulary)
    if head is None and not config.tied_head:
        raise InvalidModel("the model directory has no tensor lm_head.weight, and config.json does not tie the head")
    norm = checkpoint.take("norm.weight", (config.hidden_size,))
    checkpoint.check_all_taken()
    stored = head or embedding
    return Recipe(
        embedding, layers, norm, Matrix(config.hidden_size, (Part(stored, range(config.vocab_size)),)), head is None
    )


def _layer(config: ModelConfig, checkpoint: Checkpoint, index: int) -> LayerRecipe:
    names, prefix = config.family.names, f"layers.{index}."
    hidden, inner = config.hidden_size, config.intermediate_size
    q_size, kv_size = config.heads * config.head_dim, config.kv_heads * config.head_dim

    def norm(name: str, size: int) -> StoredTensor:
        return checkpoint.take(f"{prefix}{name}.weight", (size,))

    def matrix(stored: tuple[str, ...], sizes: tuple[int, ...], inputs: int) -> Matrix:
        return _matrix(checkpoint, tuple(prefix + name for name in stored), sizes, inputs)

    return LayerRecipe(
        attention_norm=norm(names.attention_norm, hidden),
        qkv=matrix(names.qkv, (q_size, kv_size, kv_size), hidden),
        q_norm=norm(names.q_norm, config.head_dim) if names.q_norm else None,
        k_norm=norm(names.k_norm, config.head_dim) if names.k_norm else None,
        output=matrix((names.output,), (hidden,), q_size),
        mlp_norm=norm(names.mlp_norm, hidden),
        gate_up=matrix(names.gate_up, (inner, inner), hidden),
        down=matrix((names.down,), (hidden,), inner),
        window=config.windows[index],
    )


def _matrix(checkpoint: Checkpoint, names: tuple[str, ...], sizes: tuple[int, ...], inputs: int) -> Matrix:
    """The matrix whose parts have `sizes` rows: stored as one tensor a part, or all in one."""
    stored_sizes = sizes if len(names) == len(sizes) else (sum(sizes),)
    weights: list[StoredTensor] = []
    biases: list[StoredTensor] = []
    for name, size in zip(names, stored_sizes, strict=True):
        weights.append(checkpoint.take(f"{name}.weight", (size, inputs)))
        bias = checkpoint.take_if_stored(f"{name}.bias", (size,))
        if bias is not None:
            biases.append(bias)
    if len(biases) not in (0, len(names)):
        raise InvalidModel(f"only some of {', '.join(names)} have a bias")
    return Matrix(inputs, _parts(weights, sizes), _parts(biases, sizes))


def _parts(tensors: list[StoredTensor], sizes: tuple[int, ...]) -> tuple[Part, ...]:
    if len(tensors) == len(sizes):
        return tuple(Part(tensor, range(size)) for tensor, size in zip(tensors, sizes, strict=True))
    first = 0
    parts = []
    for size in sizes if tensors else ():
        parts.append(Part(tensors[0], range(first, first + size)))
        first += size
    return tuple(parts)
