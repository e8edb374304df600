"""The tensors of a model directory: an index of its safetensors shards, read without torch.

A shard is 8 bytes of little-endian length, a JSON header of that length, and the tensors' values, one after the other
without holes (https://github.com/huggingface/safetensors, "Format"). Values are mapped, never copied, here.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from llorch.base.errors import InvalidModel
from llorch.model.config import read_json

IGNORED_SUFFIXES = (".rotary_emb.inv_freq",)
INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
DTYPE_BYTES: Mapping[str, int] = {"F32": 4, "F16": 2, "BF16": 2}
HEADER_LENGTH_BYTES = 8
HEADER_BYTES_MAX = 100_000_000  # the reference implementation's own limit


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor's values are: `size_bytes` from byte `offset` of the file `shard`, row by row, little-endian.

    `dtype` is one of DTYPE_BYTES.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: Path
    offset: int
    size_bytes: int

    @property
    def values(self) -> int:
        """Numbers stored."""
        return math.prod(self.shape)


def shard_paths(directory: Path) -> list[Path]:
    """The shards: by the index, else the single file, else every shard but the other-format `consolidated` ones."""
    index = read_json(directory / INDEX_NAME)
    if index:
        weight_map = index.get("weight_map")
        named = set(weight_map.values()) if isinstance(weight_map, dict) else set()
        if not named or not all(isinstance(name, str) and Path(name).name == name for name in named):
            raise InvalidModel(f"{INDEX_NAME} does not name files of the model directory")
        names = sorted(named)
    elif (directory / SINGLE_NAME).is_file():
        names = [SINGLE_NAME]
    else:
        names = sorted(p.name for p in directory.glob("*.safetensors") if not p.name.startswith("consolidated"))
    if not names:
        raise InvalidModel("there are no .safetensors files in the model directory")
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise InvalidModel(f"the model directory lacks {', '.join(missing)}")
    return [directory / name for name in names]


class _BadShard(Exception):
    """What is wrong with a shard, in words."""


def read_shard(path: Path) -> list[StoredTensor]:
    """The tensors of one shard, the ignored ones left out. Raises InvalidModel."""
    try:
        with open(path, "rb") as file:
            size = path.stat().st_size
            length = int.from_bytes(file.read(HEADER_LENGTH_BYTES), "little")
            start = HEADER_LENGTH_BYTES + length
            if size < HEADER_LENGTH_BYTES or length > HEADER_BYTES_MAX or start > size:
                raise _BadShard("its header does not fit in the file")
            header = json.loads(file.read(length), object_pairs_hook=_no_name_twice)
        if not isinstance(header, dict):
            raise _BadShard("its header is not a JSON object")
        header.pop("__metadata__", None)
        spans = {name: _span(name, entry) for name, entry in header.items()}
        _check_spans(spans.values(), size - start)
        return [
            _stored(name, header[name], path, start + begin, end - begin)
            for name, (begin, end) in spans.items()
            if not name.endswith(IGNORED_SUFFIXES)
        ]
    except (_BadShard, OSError, ValueError, RecursionError) as problem:
        words = str(problem) if isinstance(problem, (_BadShard, OSError)) else "its header is not valid JSON"
        raise InvalidModel(f"{path.name} is not a readable safetensors file: {words}") from None


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _BadShard("its header names a tensor twice")
    return found


def _span(name: str, entry: Any) -> tuple[int, int]:
    """First and last byte of a header's entry, counted from the end of the header."""
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not _is_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _BadShard(f"tensor {name} has no valid offsets")
    return offsets[0], offsets[1]


def _check_spans(spans: Iterable[tuple[int, int]], size_bytes: int) -> None:
    """The spans cover the file to its end without holes or overlap."""
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise _BadShard("its tensors overlap or leave holes")
        at = end
    if at != size_bytes:
        raise _BadShard(f"its tensors take {at} bytes, the file has {size_bytes} for them")


def _stored(name: str, entry: Mapping[str, Any], path: Path, offset: int, size_bytes: int) -> StoredTensor:
    dtype, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(dtype, str) or not _is_counts(shape):
        raise _BadShard(f"tensor {name} has no valid dtype and shape")
    if dtype not in DTYPE_BYTES:
        raise InvalidModel(f"tensor {name} is stored as {dtype}; supported are F32, F16 and BF16")
    if math.prod(shape) * DTYPE_BYTES[dtype] != size_bytes:
        raise _BadShard(f"tensor {name} takes {size_bytes} bytes, which is not {dtype} of shape {shape}")
    return StoredTensor(name, dtype, tuple(shape), path, offset, size_bytes)


def _is_counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


class Checkpoint:
    """Every tensor has to be taken: one that nobody asks for means a model we would compute wrongly.

    Tensors are taken first, which reads nothing; their values are read afterwards, by `mapped` or by the file's path.
    """

    def __init__(self, directory: Path) -> None:
        self.tensors: dict[str, StoredTensor] = {}
        for path in shard_paths(directory):
            for tensor in read_shard(path):
                if tensor.name in self.tensors:
                    raise InvalidModel(f"tensor {tensor.name} is in two shards")
                self.tensors[tensor.name] = tensor
        self._prefix = "" if "embed_tokens.weight" in self.tensors else "model."
        self._taken: set[str] = set()
        self._maps: dict[Path, mmap.mmap] = {}

    @property
    def dtypes(self) -> frozenset[str]:
        """The dtypes stored."""
        return frozenset(tensor.dtype for tensor in self.tensors.values())

    @property
    def values(self) -> int:
        """Numbers stored in all tensors together."""
        return sum(tensor.values for tensor in self.tensors.values())

    def take(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        """The tensor `name` (below `model.`, except the head's). Raises InvalidModel."""
        tensor = self.take_if_stored(name, shape)
        if tensor is None:
            raise InvalidModel(f"the model directory has no tensor {name}")
        return tensor

    def take_if_stored(self, name: str, shape: tuple[int, ...]) -> StoredTensor | None:
        """The same, or None when there is no such tensor."""
        full_name = name if name.startswith("lm_head") else self._prefix + name
        tensor = self.tensors.get(full_name)
        if tensor is None:
            return None
        if tensor.shape != shape:
            raise InvalidModel(f"tensor {full_name} has shape {tensor.shape}, expected {shape}")
        self._taken.add(full_name)
        return tensor

    def check_all_taken(self) -> None:
        """Raises InvalidModel when a tensor was not asked for."""
        left = sorted(set(self.tensors) - self._taken)
        if left:
            raise InvalidModel(f"{len(left)} tensors do not belong to this model type, such as {left[0]}")

    def mapped(self, tensor: StoredTensor) -> memoryview:
        """The tensor's bytes, read-only, mapped from its file; valid until `close`. Raises InvalidModel."""
        return memoryview(self._map(tensor.shard))[tensor.offset : tensor.offset + tensor.size_bytes]

    def drop_pages(self, tensor: StoredTensor) -> None:
        """Give back the memory of a mapped tensor that has been read; reading it again reads the file again."""
        first = -(-tensor.offset // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (tensor.offset + tensor.size_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if first < last:
            self._map(tensor.shard).madvise(mmap.MADV_DONTNEED, first, last - first)

    def close(self) -> None:
        """Unmap the files. Every view of `mapped` must have been released."""
        for pages in self._maps.values():
            pages.close()
        self._maps.clear()

    def _map(self, shard: Path) -> mmap.mmap:
        if shard not in self._maps:
            try:
                with open(shard, "rb") as file:
                    self._maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as problem:
                raise InvalidModel(f"{shard.name} cannot be read: {problem}") from None
        return self._maps[shard]
