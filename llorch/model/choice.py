"""Which runner computes a model, and in which arithmetic: decided from the files, the processor and the wishes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llorch.base.errors import InvalidModel
from llorch.model import hardware, loaded
from llorch.model.checkpoint import Checkpoint
from llorch.model.config import ModelConfig
from llorch.model.kernels import packing
from llorch.model.kernels.library import Isa, choose_isa, library_path
from llorch.model.loaded import Dtype, Kernels, Quantize
from llorch.model.recipe import Recipe


@dataclass(frozen=True, slots=True)
class NativeKernels:
    """Where the native libraries are, None when this build has none; `isa` forces a variant by its name."""

    directory: Path | None = None
    isa: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """What computes. `library` and `isa` are None for the torch graph, and `obstacle` says why the native kernels were
    not taken when nobody asked for torch; `dtype` is never AUTO.
    """

    dtype: Dtype
    quantize: Quantize
    library: Path | None = None
    isa: Isa | None = None
    obstacle: str | None = None

    @property
    def weight_bytes(self) -> int:
        """Bytes a weight takes in memory."""
        return 1 if self.quantize is Quantize.INT8 else self.dtype.size_bytes


def choose(
    config: ModelConfig,
    recipe: Recipe,
    checkpoint: Checkpoint,
    *,
    kernels: Kernels,
    dtype: Dtype,
    quantize: Quantize,
    native: NativeKernels,
) -> Choice:
    """Raises InvalidModel when what is asked for cannot be had, ConfigError for a forced variant that cannot run."""
    if kernels is Kernels.TORCH:
        if quantize is not Quantize.NONE:
            raise InvalidModel(
                "the torch graph computes with unquantized weights only: use the native kernels for int8"
            )
        return Choice(_torch_dtype(dtype, checkpoint), quantize)
    isa = choose_isa(hardware.cpu_flags(), native.isa)
    obstacle = _obstacle(config, recipe, native, isa, dtype)
    wanted = kernels is Kernels.NATIVE or quantize is not Quantize.NONE
    if obstacle is None and isa is not None and native.directory is not None:
        if wanted or dtype is Dtype.BF16 or "F32" not in checkpoint.dtypes:
            return Choice(Dtype.BF16, quantize, library_path(native.directory, isa), isa)
        obstacle = "the model is stored in fp32: --dtype bf16 would let them compute it"
    elif wanted:
        raise InvalidModel(f"the native kernels cannot be used here: {obstacle}")
    return Choice(_torch_dtype(dtype, checkpoint), Quantize.NONE, obstacle=obstacle)


def _obstacle(config: ModelConfig, recipe: Recipe, native: NativeKernels, isa: Isa | None, dtype: Dtype) -> str | None:
    if dtype is Dtype.FP32:
        return "they compute in bf16 or with int8 weights, not in fp32"
    if isa is None:
        return "this processor has neither AVX2 with FMA nor better"
    if native.directory is None or not library_path(native.directory, isa).is_file():
        return "this build has none for this processor (from sources: python build/kernels.py)"
    misfit = packing.misfit(config, recipe)
    return None if misfit is None else f"the model does not fit them, {misfit}"


def _torch_dtype(dtype: Dtype, checkpoint: Checkpoint) -> Dtype:
    if dtype is Dtype.AUTO:
        large = checkpoint.values * Dtype.FP32.size_bytes >= loaded.SMALL_MODEL_BYTES
        pays = large and checkpoint.dtypes == {"BF16"} and hardware.has_native_bf16()
        return Dtype.BF16 if pays else Dtype.FP32
    if dtype is Dtype.BF16 and not hardware.has_native_bf16():
        raise InvalidModel("this processor has no bf16 instructions for torch: use fp32")
    return dtype
