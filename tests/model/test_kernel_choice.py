"""Which runner computes a model: wishes, files, processor and build; every refusal says why."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from variants import ROOT, built, load_native

from llorch.base.errors import ConfigError, HostError, InvalidModel
from llorch.batching.plan import Row, StepPlan
from llorch.model import Dtype, Kernels, LoadedModel, NativeKernels, Quantize, hardware, load_model
from llorch.model.kernels.library import NEEDED_FLAGS, Isa, choose_isa

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@pytest.fixture
def avx2() -> NativeKernels:
    """Native kernels that any processor with a compiler can run."""
    return NativeKernels(built(Isa.AVX2), "avx2")


def kind(model: LoadedModel) -> tuple[str, str, str | None, str]:
    can = model.capabilities
    model.runner.close()
    return can.kernels, can.dtype, can.isa, can.quantize


@pytest.mark.parametrize(
    ("stored", "options", "expected"),
    [
        (BF16, {}, ("native", "bf16", "avx2", "none")),
        (FP16, {}, ("native", "bf16", "avx2", "none")),
        (FP32, {}, ("torch", "fp32", None, "none")),
        (FP32, {"dtype": Dtype.BF16}, ("native", "bf16", "avx2", "none")),
        (FP32, {"kernels": Kernels.NATIVE}, ("native", "bf16", "avx2", "none")),
        (FP32, {"quantize": Quantize.INT8}, ("native", "bf16", "avx2", "int8")),
        (BF16, {"quantize": Quantize.INT8, "kernels": Kernels.NATIVE}, ("native", "bf16", "avx2", "int8")),
        (BF16, {"dtype": Dtype.FP32}, ("torch", "fp32", None, "none")),
        (BF16, {"kernels": Kernels.TORCH}, ("torch", "fp32", None, "none")),
    ],
)
def test_what_computes(
    stored: torch.dtype,
    options: dict[str, object],
    expected: tuple[str, str, str | None, str],
    avx2: NativeKernels,
    write_model: Callable[..., Path],
) -> None:
    """AUTO is native for half precision, torch for fp32 files and for fp32 arithmetic; a wish decides otherwise."""
    directory = write_model("llama3", dtype=stored, num_hidden_layers=1)
    model = load_model(directory, native=avx2, slots=1, **options)  # type: ignore[arg-type]
    assert model.capabilities.row_invariant
    assert kind(model) == expected


@pytest.mark.parametrize("options", [{"kernels": Kernels.NATIVE}, {"quantize": Quantize.INT8}])
def test_what_native_kernels_need(
    options: dict[str, object],
    avx2: NativeKernels,
    bf16_directories: Callable[[str], Path],
    write_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Asked for where they cannot be had, they are refused with the reason; AUTO then takes torch."""

    def refused(directory: Path, native: NativeKernels, message: str, **more: object) -> None:
        with pytest.raises(InvalidModel, match=f"^the native kernels cannot be used here: {re.escape(message)}"):
            load_model(directory, native=native, slots=1, **options, **more)  # type: ignore[arg-type]
        auto = load_model(directory, native=native, slots=1, **more)  # type: ignore[arg-type]
        assert kind(auto)[0] == "torch"

    directory = bf16_directories("llama3")
    refused(directory, avx2, "they compute in bf16 or with int8 weights, not in fp32", dtype=Dtype.FP32)
    for missing in (NativeKernels(None, "avx2"), NativeKernels(tmp_path, "avx2"), NativeKernels()):
        refused(directory, missing, "this build has none for this processor")
    narrow = write_model("llama2", num_attention_heads=8, dtype=BF16)
    refused(narrow, avx2, "the model does not fit them, its head size 8 is no multiple of 16")
    narrow = write_model("llama2", hidden_size=72, head_dim=16, dtype=BF16)
    refused(narrow, avx2, "the model does not fit them, its hidden size 72 is no multiple of 16")
    narrow = write_model("llama2", head_dim=528, num_attention_heads=1, dtype=BF16)
    refused(narrow, avx2, "the model does not fit them, its heads are larger than 512")
    narrow = write_model("llama2", hidden_size=784, num_attention_heads=49, num_key_value_heads=1, dtype=BF16)
    refused(narrow, avx2, "the model does not fit them, more than 48 query heads share a key-value head")
    monkeypatch.setattr(hardware, "cpu_flags", frozenset)
    refused(directory, NativeKernels(avx2.directory), "this processor has neither AVX2 with FMA nor better")


def test_torch_has_no_int8(avx2: NativeKernels, bf16_directories: Callable[[str], Path]) -> None:
    """int8 weights on torch are refused whatever the build has."""
    with pytest.raises(InvalidModel, match="unquantized weights only: use the native kernels for int8"):
        load_model(bf16_directories("llama3"), native=avx2, kernels=Kernels.TORCH, quantize=Quantize.INT8)


def test_a_broken_library_is_a_host_error(bf16_directories: Callable[[str], Path], tmp_path: Path) -> None:
    """A file that is no library is this machine's fault, said in one line."""
    built(Isa.AVX2)
    (tmp_path / "libllorch_avx2.so").write_bytes(b"not a library")
    with pytest.raises(HostError, match="the native kernels cannot be loaded"):
        load_model(bf16_directories("llama3"), native=NativeKernels(tmp_path, "avx2"))


def test_the_best_variant_is_chosen() -> None:
    """The best one that the processor can run, none where none fits; each needs all of its instructions."""
    every = frozenset().union(*NEEDED_FLAGS.values())
    assert choose_isa(every, None) is Isa.AMX
    assert choose_isa(every, "") is Isa.AMX
    assert choose_isa(every - {"amx_int8"}, None) is Isa.AVX512
    assert choose_isa(every - {"avx512_bf16"}, None) is Isa.AVX2
    assert choose_isa(every - {"amx_tile"}, "avx512") is Isa.AVX512
    assert choose_isa((), None) is None
    for isa in Isa:
        assert choose_isa(every, isa.value) is isa
        for flag in NEEDED_FLAGS[isa]:
            with pytest.raises(ConfigError, match=f"^LLORCH_CPU_ISA={isa.value}: this processor lacks {flag}$"):
                choose_isa(every - {flag}, isa.value)


def test_a_forced_variant(bf16_directories: Callable[[str], Path], avx2: NativeKernels) -> None:
    """An unknown name is refused with the known ones, whoever asked for which kernels."""
    unknown = NativeKernels(avx2.directory, "sse2")
    for options in ({}, {"kernels": Kernels.NATIVE}):
        with pytest.raises(ConfigError, match=r"^LLORCH_CPU_ISA=sse2: known are amx, avx512, avx2$"):
            load_model(bf16_directories("llama3"), native=unknown, **options)  # type: ignore[arg-type]


def test_what_the_kernels_cannot_compute_is_refused_while_loading(
    write_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Biases in the feed-forward layers: torch computes them, asking for the kernels is refused."""
    directory = write_model("llama3", dtype=BF16, mlp_bias=True)
    native = NativeKernels(built(Isa.AVX2), "avx2")
    assert load_model(directory, native=native, slots=2).capabilities.kernels == "torch"
    with pytest.raises(InvalidModel, match="its feed-forward layers have biases"):
        load_native(monkeypatch, "avx2", directory, kernels=Kernels.NATIVE)


def test_progress_and_memory(bf16_directories: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress climbs from 0 to 1; cache memory is counted as blocks are used; a closed model is closed for good."""
    seen: list[float] = []
    model = load_native(monkeypatch, "avx2", bf16_directories("llama3"), slots=2, progress=seen.append)
    assert seen[0] == 0.0 and seen[-1] == 1.0 and seen == sorted(seen) and len(seen) > 5
    assert model.step_tokens == 512 and model.kv_blocks == 8
    assert model.kv_bytes == 0
    model.runner.run(StepPlan((Row("a", 0, tuple(range(130)), (), (1, 6)),)))
    assert model.kv_bytes == 2 * 128 * 3 * 2 * (32 + 16) * 2  # two blocks; keys of 16 values take the room of 32
    model.runner.interrupt()
    model.runner.close()
    model.runner.close()
    model.runner.interrupt()


def test_neither_torch_nor_numpy_is_loaded(bf16_directories: Callable[[str], Path], avx2: NativeKernels) -> None:
    """Loading, running and drawing on the native kernels import none of the large libraries."""
    script = """
import pathlib, sys
for absent in ("torch", "numpy", "safetensors"):
    sys.modules[absent] = None
from llorch.batching.plan import Draw, Row, StepPlan
from llorch.batching.sequence import SamplingParams
from llorch.model import Kernels, NativeKernels, load_model
def torch_needed():
    raise AssertionError("torch is not needed")
native = NativeKernels(pathlib.Path(sys.argv[2]), "avx2")
model = load_model(pathlib.Path(sys.argv[1]), native=native, slots=2, torch_needed=torch_needed)
params = SamplingParams(top_p=0.9, top_k=5, repetition_penalty=1.2, logit_bias=((5, 0.5),), logprobs=2)
ids = tuple(model.tokenizer.encode("once"))
print(model.runner.run(StepPlan((Row("a", 0, ids, (Draw(params, 0, (5, 6), 1),), (0,)),))))
assert model.capabilities.kernels == Kernels.NATIVE.value
"""
    command = [sys.executable, "-W", "error", "-c", script, str(bf16_directories("llama3")), str(avx2.directory)]
    subprocess.run(command, check=True, cwd=ROOT, timeout=60)


def test_weights_are_in_memory_once(avx2: NativeKernels, write_model: Callable[..., Path]) -> None:
    """The pages of a mapped checkpoint are given back as its matrices are packed: about one copy stays resident."""
    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 6}
    directory = write_model("llama2", dtype=BF16, shards="60MB", **large)
    script = """
import pathlib, re, sys
from llorch.model import Kernels, NativeKernels, load_model
def resident():
    rollup = pathlib.Path("/proc/self/smaps_rollup").read_text()
    return int(re.search(r"^Rss: +(\\d+) kB", rollup, re.M)[1]) << 10
before = resident()
native = NativeKernels(pathlib.Path(sys.argv[2]), "avx2")
model = load_model(pathlib.Path(sys.argv[1]), native=native, kernels=Kernels.NATIVE, slots=2)
taken = resident() - before
print(taken >> 20, model.weights_bytes >> 20)
assert model.weights_bytes > 190 << 20
assert 0.95 * model.weights_bytes < taken < 1.35 * model.weights_bytes + (120 << 20)
"""
    command = [sys.executable, "-c", script, str(directory), str(avx2.directory)]
    subprocess.run(command, check=True, cwd=ROOT, timeout=120)
    shutil.rmtree(directory)
