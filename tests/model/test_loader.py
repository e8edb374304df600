"""Loading: what is refused and why, dtype choice, progress, memory, and what is learnt from the files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llorch.base.errors import InsufficientMemory, InvalidModel
from llorch.batching.planner import Draw, Row, StepPlan
from llorch.batching.sequence import SamplingParams
from llorch.host import process
from llorch.model import Dtype, hardware, load_model, loader
from llorch.model.config import RopeScaling, parse_config
from llorch.model.kv_cache import KvCache

GIB = 1 << 30
CONFIG = {
    "model_type": "llama",
    "vocab_size": 10,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


@pytest.fixture
def directory(directories: Callable[[str], Path], tmp_path: Path) -> Path:
    return shutil.copytree(directories("llama3"), tmp_path / "model")


def change_config(directory: Path, **values: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_loaded_model(directory: Path) -> None:
    """Everything the worker asks for is there; progress climbs from 0 to 1; memory in use grows with positions."""
    seen: list[float] = []
    model = load_model(directory, slots=2, threads=1, progress=seen.append)
    assert seen[0] == 0.0 and seen[-1] == 1.0 and seen == sorted(seen) and len(seen) > 5
    assert model.context_length == 512
    assert model.step_tokens == 2 + 256
    assert model.eos_ids == {2}
    assert model.chat_template == "{{ messages }}"
    assert model.special_tokens["bos_token"] == "<s>"
    assert model.weights_bytes == sum(tensor_bytes(directory))
    assert model.capabilities.to_body()["row_invariant"] is True
    before = model.kv_bytes
    greedy = Draw(SamplingParams(temperature=0.0), 0)
    plan = StepPlan((Row("a", 0, 0, tuple(range(200)), greedy), Row("b", 1, 0, (5,), None)))
    tokens = model.runner.run(plan)
    assert isinstance(tokens[0], int) and tokens[1] is None
    assert model.kv_bytes - before == 128 * model.config.kv_values_per_position * 4


def test_the_frozen_file_has_no_numpy(directory: Path) -> None:
    """Loading and running need no numpy, and import nothing of torch's compiler (absent from the frozen file)."""
    script = """
import pathlib, sys
sys.modules["numpy"] = None
from llorch.batching.planner import Draw, Row, StepPlan
from llorch.batching.sequence import SamplingParams
from llorch.model import load_model
model = load_model(pathlib.Path(sys.argv[1]), slots=2)
params = SamplingParams(top_p=0.9, top_k=5, repetition_penalty=1.2)
print(model.runner.run(StepPlan((Row("a", 0, 0, tuple(model.tokenizer.encode("once")), Draw(params, 0, (5,))),))))
assert not {"torch._dynamo", "torch._inductor", "sympy", "networkx"} & set(sys.modules)
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-W", "error", "-c", script, str(directory)], check=True, cwd=root, timeout=60)


def test_threads_hold_in_the_step_thread(write_model: Callable[..., Path]) -> None:
    """A runner used from another thread than the one that loaded it starts no more compute threads than allowed."""
    directory = write_model("llama2", hidden_size=512, intermediate_size=2048, num_hidden_layers=1)
    script = """
import os, pathlib, sys, threading
from llorch.batching.planner import Row
from llorch.model import load_model
model = load_model(pathlib.Path(sys.argv[1]), slots=1, threads=1)
row = Row("a", 0, 0, tuple(range(64)), None)
count = lambda: len(os.listdir("/proc/self/task"))
def step():
    before = count()
    model.runner.logits((row,))
    seen.append(count() - before)
seen = []
thread = threading.Thread(target=step)
thread.start()
thread.join()
assert seen == [0], seen
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", script, str(directory)]
    subprocess.run(command, check=True, cwd=root, env=environment, timeout=60)


def test_the_cache_takes_memory_as_it_is_used() -> None:
    """Reserving a cache costs no memory; a position written takes its pages."""
    config = parse_config({**CONFIG, "max_position_embeddings": 1 << 22}, {})
    before = resident_bytes()
    cache = KvCache(config, slots=2, context=1 << 22, dtype=torch.float32)
    assert cache.positions == 1 << 22 and resident_bytes() - before < 16 << 20
    cache.store(0, cache.row_indexes(torch.tensor([1]), torch.tensor([1 << 21])), torch.ones(1, 4, 4))
    assert cache.keys(0, 1, 1 << 21, (1 << 21) + 1).sum() == 8 and resident_bytes() - before < 16 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tensor_bytes(directory: Path) -> list[int]:
    from safetensors import safe_open

    with safe_open(str(directory / "model.safetensors"), framework="pt") as file:
        return [file.get_tensor(name).nbytes for name in file.keys()]  # noqa: SIM118  (not a dict)


def test_unknown_model_type_names_the_supported_ones(directory: Path) -> None:
    """An unknown model_type is refused, naming what is supported."""
    change_config(directory, model_type="gpt2")
    with pytest.raises(InvalidModel, match=r"'gpt2' is not supported; supported are llama, mistral, qwen2"):
        load_model(directory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "gelu"}, "activation"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope scaling 'yarn'"),
        ({"vocab_size": None}, "vocab_size"),
        ({"intermediate_size": 32}, r"has shape \(96, 64\), expected \(32, 64\)"),
        ({"num_hidden_layers": 2}, "9 tensors do not belong"),
        ({"num_hidden_layers": 4}, r"no tensor layers\.3"),
    ],
)
def test_what_we_would_compute_wrongly_is_refused(directory: Path, change: dict[str, object], message: str) -> None:
    """Settings we do not implement, and tensors that do not match the configuration, are refused in one line."""
    change_config(directory, **change)
    with pytest.raises(InvalidModel, match=message):
        load_model(directory)


def test_files_that_are_missing_or_broken(directory: Path) -> None:
    """A missing config.json, a cut shard, an index that leaves the directory: refused in one line."""
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../elsewhere.safetensors"}}))
    with pytest.raises(InvalidModel, match="does not name files"):
        load_model(directory)
    index.unlink()
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InvalidModel, match="not a readable safetensors file"):
        load_model(directory)
    weights.unlink()
    with pytest.raises(InvalidModel, match=r"no \.safetensors files"):
        load_model(directory)
    (directory / "config.json").unlink()
    with pytest.raises(InvalidModel, match=r"no config\.json"):
        load_model(directory)


def test_memory_is_checked_before_loading(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A context that does not fit is refused; without one, as much is taken as fits."""
    monkeypatch.setattr(process, "available_memory_bytes", lambda: GIB // 8)
    with pytest.raises(InsufficientMemory, match="are needed for weights and 4000 slots of 512 positions"):
        load_model(directory, slots=4000, context=512)
    change_config(directory, max_position_embeddings=1 << 20)
    model = load_model(directory, slots=2)
    assert 2048 < model.context_length < 1 << 20
    assert model.context_length % 128 == 0


def test_dtype_follows_storage_size_and_processor(
    write_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """AUTO takes bf16 for a large model stored so on a processor that has it; asking for it elsewhere is refused."""
    stored = write_model("qwen2", dtype=torch.bfloat16)
    monkeypatch.setattr(hardware, "has_native_bf16", lambda: True)
    assert load_model(stored, slots=1).capabilities.dtype == "fp32"
    monkeypatch.setattr(loader, "SMALL_MODEL_BYTES", 0)
    assert load_model(stored, slots=1).capabilities.dtype == "bf16"
    monkeypatch.setattr(hardware, "has_native_bf16", lambda: False)
    assert load_model(stored, slots=1).capabilities.dtype == "fp32"
    with pytest.raises(InvalidModel, match="no bf16 instructions"):
        load_model(stored, slots=1, dtype=Dtype.BF16)


def test_end_ids_of_both_files() -> None:
    """End ids come from config.json and generation_config.json, one or a list."""
    assert parse_config({**CONFIG, "eos_token_id": 3}, {"eos_token_id": [4, 5]}).eos_ids == {3, 4, 5}
    assert parse_config(CONFIG, {}).eos_ids == frozenset()


def test_both_spellings_of_rope() -> None:
    """`rope_theta` beside `rope_scaling`, and `rope_parameters` with both, mean the same."""
    scaling = {"factor": 8.0, "original_max_position_embeddings": 64}
    old = {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **scaling}}
    new = {"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", **scaling}}
    first, second = (parse_config({**CONFIG, **spelling}, {}).rope for spelling in (old, new))
    assert first == second
    assert (first.scaling, first.theta, first.factor) == (RopeScaling.LLAMA3, 5e5, 8.0)


def test_sliding_windows() -> None:
    """Mistral slides in all layers unless null; Qwen2 in the upper layers, and only when turned on."""
    mistral = {**CONFIG, "model_type": "mistral"}
    assert parse_config({**mistral, "sliding_window": 9}, {}).windows == (9, 9)
    assert parse_config({**mistral, "sliding_window": None}, {}).windows == (None, None)
    qwen = {**CONFIG, "model_type": "qwen2", "sliding_window": 9, "max_window_layers": 1}
    assert parse_config(qwen, {}).windows == (None, None)
    assert parse_config({**qwen, "use_sliding_window": True}, {}).windows == (None, 9)
