"""The native kernels in every variant that this processor can run, and the AMX one with its tile unit in plain C++."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import pytest

from llorch.model import Dtype, Kernels, LoadedModel, NativeKernels, Quantize, hardware, load_model
from llorch.model.kernels.library import NEEDED_FLAGS, Isa, library_path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "build"))

import kernels as build  # noqa: E402

ISAS = tuple(isa.value for isa in Isa)
EMULATED_DIR = build.OUT.with_name("kernels_emulated")
RUN_BY_EMULATION = NEEDED_FLAGS[Isa.AVX512]


@functools.cache
def built(isa: Isa) -> Path:
    """The directory with the library of a variant, compiled if it is not up to date. Skips where that cannot be."""
    if build.compiler() is None:
        pytest.skip("no C++ compiler for this machine")
    needed = RUN_BY_EMULATION if isa is Isa.AMX else NEEDED_FLAGS[isa]
    missing = sorted(set(needed) - hardware.cpu_flags())
    if missing:
        pytest.skip(f"this processor lacks {', '.join(missing)}")
    emulated = isa is Isa.AMX
    directory = EMULATED_DIR if emulated else build.OUT
    flags = build.EMULATED if emulated else build.VARIANTS[isa.value]
    assert build.compile_variant(flags, library_path(directory, isa)), "the compiler refused the kernels"
    return directory


def load_native(
    monkeypatch: pytest.MonkeyPatch, isa: str, directory: Path, *, quantize: Quantize = Quantize.NONE, **options: Any
) -> LoadedModel:
    """A model on the variant `isa`, with one thread unless told otherwise; a processor with AMX is pretended."""
    kernels = NativeKernels(built(Isa(isa)), isa)
    with monkeypatch.context() as patch:
        if Isa(isa) is Isa.AMX:
            flags = hardware.cpu_flags() | set(NEEDED_FLAGS[Isa.AMX])
            patch.setattr(hardware, "cpu_flags", lambda: flags)
        settings = {"kernels": Kernels.NATIVE, "dtype": Dtype.BF16, "threads": 1, **options}
        model = load_model(directory, native=kernels, quantize=quantize, **settings)
    assert (model.capabilities.kernels, model.capabilities.isa) == ("native", isa)
    return model
