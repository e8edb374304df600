"""Tiny random models of every family, written by `transformers` as a hub repository would hold them."""

from __future__ import annotations

import functools
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
from variants import load_native

from llorch.model import Dtype, Kernels, LoadedModel, Quantize, load_model


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


@pytest.fixture(scope="session")
def bf16_directories(write_model: Callable[..., Path]) -> Callable[[str], Path]:
    """A cached bf16, single-file directory per family: what the native kernels compute with, and so may an oracle."""
    return functools.cache(lambda name: write_model(name, dtype=torch.bfloat16))


@pytest.fixture
def load_torch() -> Callable[..., LoadedModel]:
    """`load_torch(directory, **options)` on the torch graph, in fp32 and with one thread."""

    def loaded(directory: Path, **options: Any) -> LoadedModel:
        return load_model(directory, **{"kernels": Kernels.TORCH, "dtype": Dtype.FP32, "threads": 1, **options})

    return loaded


@pytest.fixture(params=KERNELS)
def load(
    request: pytest.FixtureRequest, load_torch: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., LoadedModel]:
    """`load(directory, **options)` with one thread, for everything that is exact: torch in fp32, native kernels."""
    if request.param == "torch":
        return load_torch
    isa, _, weights = request.param.partition("-")
    quantize = Quantize.INT8 if weights else Quantize.NONE
    return functools.partial(load_native, monkeypatch, isa, quantize=quantize)
