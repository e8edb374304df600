"""Tiny random models of every family, written by `transformers` as a hub repository would hold them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
import transformers
from tiny_models import FAMILIES, KERNELS, SHAPE, write_tokenizer

from llorch.model import Dtype, Kernels, LoadedModel, load_model


@pytest.fixture(scope="session")
def write_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`write_model(name, shards="5GB", dtype=torch.float32, **config)` -> a model directory."""

    def write(name: str, *, shards: str = "5GB", dtype: torch.dtype = torch.float32, **config: Any) -> Path:
        label, extra = FAMILIES[name]
        directory = tmp_path_factory.mktemp(name)
        torch.manual_seed(7)
        values = {**SHAPE, **extra, **config}
        model_class = getattr(transformers, f"{label}ForCausalLM")
        model = model_class(getattr(transformers, f"{label}Config")(**values))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.2) if parameter.ndim == 2 else parameter.uniform_(0.5, 1.5)
        model.to(dtype).save_pretrained(directory, max_shard_size=shards)
        write_tokenizer(directory)
        return directory

    return write


@pytest.fixture(scope="session")
def directories(write_model: Callable[..., Path]) -> Callable[[str], Path]:
    """A cached fp32, single-file directory per family."""
    made: dict[str, Path] = {}

    def directory(name: str) -> Path:
        if name not in made:
            made[name] = write_model(name)
        return made[name]

    return directory


@pytest.fixture(params=KERNELS)
def load(request: pytest.FixtureRequest) -> Callable[..., LoadedModel]:
    """`load(directory, **options)` in fp32 and with one thread, for each kind of kernels."""

    def loaded(directory: Path, **options: Any) -> LoadedModel:
        settings = {"kernels": Kernels(request.param), "dtype": Dtype.FP32, "threads": 1, **options}
        return load_model(directory, **settings)

    return loaded
