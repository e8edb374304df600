"""The index of safetensors files against the reference implementation, and every kind of broken file."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from llorch.base.errors import InvalidModel
from llorch.model.checkpoint import Checkpoint
from llorch.model.config import read_config
from llorch.model.recipe import read_recipe

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def write(directory: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """A model.safetensors with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    packed = struct.pack("<Q", len(text) if length is None else length)
    (directory / "model.safetensors").write_bytes(packed + text + data)
    return directory


def entry(begin: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


def test_index_equals_the_reference(directories: Callable[[str], Path]) -> None:
    """Names, dtypes, shapes and bytes of every tensor are what the safetensors package reads."""
    directory = directories("qwen2")
    checkpoint = Checkpoint(directory)
    with safe_open(str(directory / "model.safetensors"), framework="pt") as file:
        assert set(file.keys()) == set(checkpoint.tensors)
        for name, stored in checkpoint.tensors.items():
            tensor = file.get_tensor(name)
            assert (DTYPES[tensor.dtype], tuple(tensor.shape)) == (stored.dtype, stored.shape)
            with checkpoint.mapped(stored) as view:
                assert view.readonly
                assert torch.equal(torch.frombuffer(bytearray(view), dtype=tensor.dtype).view(stored.shape), tensor)
    checkpoint.close()


def test_pages_can_be_dropped_and_read_again(tmp_path: Path) -> None:
    """Dropping a tensor's pages loses nothing, whatever its place in the file."""
    tensors = {"a": torch.arange(5000.0), "b": torch.arange(3.0), "c": torch.arange(9000.0).to(torch.bfloat16)}
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path)
    assert (checkpoint.values, checkpoint.dtypes) == (14003, {"F32", "BF16"})
    for name, tensor in tensors.items():
        stored = checkpoint.tensors[name]
        before = bytes(checkpoint.mapped(stored))
        checkpoint.drop_pages(stored)
        assert bytes(checkpoint.mapped(stored)) == before == tensor.view(torch.uint8).flatten().numpy().tobytes()
    checkpoint.close()


def test_header_details(tmp_path: Path) -> None:
    """Metadata, empty tensors, a scalar and ignored names are fine; an ignored tensor may have any dtype."""
    header = {
        "__metadata__": {"format": "pt"},
        "scalar": entry(0, 4, []),
        "empty": entry(4, 4, [0, 7]),
        "model.layers.0.rotary_emb.inv_freq": entry(4, 12, [1], "F64"),
    }
    assert set(Checkpoint(write(tmp_path, header, bytes(12))).tensors) == {"scalar", "empty"}


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"", 0, "not a readable safetensors file: its header is not valid JSON"),
        (b"[1]", 0, "not a JSON object"),
        (b"[" * 100_000, 0, "not valid JSON"),
        (b"\xff\xfe{}", 0, "not valid JSON"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {}}', 4, "names a tensor twice"),
        ({"a": 1}, 0, "no valid offsets"),
        ({"a": entry(4, 0)}, 4, "no valid offsets"),
        ({"a": {**entry(0, 4), "data_offsets": [0, 4.0]}}, 4, "no valid offsets"),
        ({"a": {**entry(0, 4), "data_offsets": [-4, 4]}}, 4, "no valid offsets"),
        ({"a": {**entry(0, 4), "data_offsets": [False, 4]}}, 4, "no valid offsets"),
        ({"a": {**entry(0, 4), "shape": "x"}}, 4, "no valid dtype and shape"),
        ({"a": {**entry(0, 4), "shape": [-1]}}, 4, "no valid dtype and shape"),
        ({"a": {"shape": [1], "data_offsets": [0, 4]}}, 4, "no valid dtype and shape"),
        ({"a": entry(0, 8, [3])}, 8, "which is not F32 of shape"),
        ({"a": entry(0, 4, [1 << 62, 4])}, 4, "which is not F32 of shape"),
        ({"a": entry(0, 8), "b": entry(4, 8)}, 8, "overlap or leave holes"),
        ({"a": entry(0, 4), "b": entry(8, 12)}, 12, "overlap or leave holes"),
        ({"a": entry(0, 8)}, 4, "take 8 bytes, the file has 4"),
        ({"a": entry(0, 4)}, 8, "take 4 bytes, the file has 8"),
        ({"a": entry(0, 4, [1], "I32")}, 4, "tensor a is stored as I32; supported are F32, F16 and BF16"),
    ],
)
def test_broken_shards_are_refused(tmp_path: Path, header: Any, data: int, message: str) -> None:
    """Each way to lie in a header is refused in one line that names the file or the tensor."""
    with pytest.raises(InvalidModel, match=message):
        Checkpoint(write(tmp_path, header, bytes(data)))


@pytest.mark.parametrize("length", [3, 1 << 40, 2**64 - 1])
def test_header_lengths_are_bounded(tmp_path: Path, length: int) -> None:
    """A header that would be longer than the file, or absurdly long, is not read."""
    with pytest.raises(InvalidModel, match=r"does not fit in the file|not valid JSON"):
        Checkpoint(write(tmp_path, {}, length=length))
    (tmp_path / "model.safetensors").write_bytes(b"1234")
    with pytest.raises(InvalidModel, match="does not fit in the file"):
        Checkpoint(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    """Which of the two is meant cannot be known."""
    for name in ("one.safetensors", "two.safetensors"):
        save_file({"a": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(InvalidModel, match="tensor a is in two shards"):
        Checkpoint(tmp_path)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    """An index that names files which are not there, or no files at all."""
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    with pytest.raises(InvalidModel, match=r"lacks one\.safetensors, two\.safetensors"):
        Checkpoint(tmp_path)
    for weight_map in ({}, {"a": 1}, ["one.safetensors"], {"a": "/etc/passwd"}):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(InvalidModel, match="does not name files"):
            Checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "qwen3_bias", "phi3", "llama3"])
def test_a_recipe_names_every_value_once(name: str, directories: Callable[[str], Path]) -> None:
    """A layer's matrices have their logical parts whatever the file stacks; together they use each value once."""
    directory = directories(name)
    config, checkpoint = read_config(directory), Checkpoint(directory)
    recipe = read_recipe(config, checkpoint)
    extra = recipe.embedding.values if recipe.tied else 0
    assert recipe.values == checkpoint.values + extra
    assert recipe.tied == config.tied_head
    sizes = (config.heads * config.head_dim, *[config.kv_heads * config.head_dim] * 2)
    for index, layer in enumerate(recipe.layers):
        assert tuple(len(part.rows) for part in layer.qkv.parts) == sizes
        assert [len(part.rows) for part in layer.gate_up.parts] == [config.intermediate_size] * 2
        assert len(layer.qkv.bias) == (3 if name in ("qwen2", "qwen3_bias") else 0)
        assert (layer.q_norm is not None) == (layer.k_norm is not None) == name.startswith("qwen3")
        assert layer.window == config.windows[index]
        shared = layer.gate_up.parts[0].tensor == layer.gate_up.parts[1].tensor
        assert shared == (name == "phi3")
        assert layer.gate_up.parts[1].rows.start == (config.intermediate_size if shared else 0)


def test_half_a_bias_is_refused(directories: Callable[[str], Path]) -> None:
    """Stacked projections have biases together or not at all."""
    directory = directories("qwen2")
    checkpoint = Checkpoint(directory)
    del checkpoint.tensors["model.layers.1.self_attn.k_proj.bias"]
    with pytest.raises(InvalidModel, match="only some of"):
        read_recipe(read_config(directory), checkpoint)


def test_a_missing_head_is_refused(directories: Callable[[str], Path]) -> None:
    """A file without a head whose configuration does not tie it."""
    directory = directories("llama3")
    checkpoint = Checkpoint(directory)
    del checkpoint.tensors["lm_head.weight"]
    with pytest.raises(InvalidModel, match=r"lm_head\.weight"):
        read_recipe(read_config(directory), checkpoint)
