"""The tensors of a model directory, mapped from its safetensors shards and taken one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llorch.base.errors import InvalidModel
from llorch.model.config import read_json

IGNORED_SUFFIXES = (".rotary_emb.inv_freq",)
INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
STORED_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def shard_paths(directory: Path) -> list[Path]:
    """The shards: by the index, else the single file, else every shard but the other-format `consolidated` ones."""
    index = read_json(directory / INDEX_NAME)
    if index:
        names = sorted(set(index.get("weight_map", {}).values()))
        if not names or any(Path(name).name != name for name in names):
            raise InvalidModel(f"{INDEX_NAME} does not name files of the model directory")
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


class Checkpoint:
    """Every tensor has to be taken: one that nobody asks for means a model we would compute wrongly."""

    def __init__(self, directory: Path) -> None:
        self._files: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: set[torch.dtype] = set()
        for path in shard_paths(directory):
            try:
                self._open(path)
            except (SafetensorError, OSError) as problem:
                raise InvalidModel(f"{path.name} is not a readable safetensors file: {problem}") from None
        self._prefix = "" if "embed_tokens.weight" in self.shapes else "model."
        self._taken: set[str] = set()

    def _open(self, path: Path) -> None:
        shard = safe_open(str(path), framework="pt")
        for name in shard.keys():  # noqa: SIM118  (not a dict)
            view = shard.get_slice(name)
            stored = STORED_DTYPES.get(view.get_dtype())
            if name.endswith(IGNORED_SUFFIXES):
                continue
            if stored is None:
                raise InvalidModel(f"tensor {name} is stored as {view.get_dtype()}; supported are F32, F16 and BF16")
            self._files[name] = shard
            self.shapes[name] = tuple(view.get_shape())
            self.dtypes.add(stored)

    @property
    def values(self) -> int:
        """Numbers stored in all tensors together."""
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())

    @property
    def values_taken(self) -> int:
        """Numbers in the tensors taken so far."""
        return sum(torch.Size(self.shapes[name]).numel() for name in self._taken)

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor `name` (below `model.`, except the head's), still mapped. Raises InvalidModel."""
        tensor = self.take_if_stored(name, shape)
        if tensor is None:
            raise InvalidModel(f"the model directory has no tensor {name}")
        return tensor

    def take_if_stored(self, name: str, shape: tuple[int, ...]) -> Tensor | None:
        """The same, or None when there is no such tensor."""
        full_name = name if name.startswith("lm_head") else self._prefix + name
        if full_name not in self.shapes:
            return None
        if self.shapes[full_name] != shape:
            raise InvalidModel(f"tensor {full_name} has shape {self.shapes[full_name]}, expected {shape}")
        self._taken.add(full_name)
        tensor: Tensor = self._files[full_name].get_tensor(full_name)
        return tensor

    def finish(self) -> None:
        """Close the mapping. Raises InvalidModel when a tensor was not used."""
        left = sorted(set(self.shapes) - self._taken)
        if left:
            raise InvalidModel(f"{len(left)} tensors do not belong to this model type, such as {left[0]}")
        self._files.clear()
