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
from llorch.batching.plan import Draw, Row, StepPlan
from llorch.batching.sequence import SamplingParams
from llorch.host import process
from llorch.model import Dtype, hardware, load_model, loaded
from llorch.model.config import parse_config
from llorch.model.graph.kv_cache import KvCache
from llorch.model.rope import RopeScaling

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
    assert model.step_tokens == 256
    assert model.kv_blocks == 2 * 4
    assert model.eos_ids == {2}
    assert model.chat_template == "{{ messages }}"
    assert model.special_tokens["bos_token"] == "<s>"
    assert model.weights_bytes == sum(tensor_bytes(directory))
    assert model.capabilities.to_body()["row_invariant"] is True
    before = model.kv_bytes
    greedy = Draw(SamplingParams(temperature=0.0), 0)
    plan = StepPlan((Row("a", 0, tuple(range(200)), (greedy,), (0, 2)), Row("b", 0, (5,), (), (7,))))
    drawn = model.runner.run(plan)
    assert isinstance(drawn[0][0].token_id, int) and drawn[1] == ()
    assert model.kv_bytes - before == 128 * model.config.kv_values_per_position * 4  # 0 and 7: tried while loading
    model.runner.interrupt()
    model.runner.close()


def test_the_frozen_file_has_no_numpy(directory: Path) -> None:
    """Loading and running need no numpy, and import nothing of torch's compiler (absent from the frozen file)."""
    script = """
import pathlib, sys
sys.modules["numpy"] = None
from llorch.batching.plan import Draw, Row, StepPlan
from llorch.batching.sequence import SamplingParams
from llorch.model import load_model
model = load_model(pathlib.Path(sys.argv[1]), slots=2)
params = SamplingParams(
    top_p=0.9, top_k=5, repetition_penalty=1.2, presence_penalty=0.1, logit_bias=((5, 0.5),), logprobs=2
)
ids = tuple(model.tokenizer.encode("once"))
print(model.runner.run(StepPlan((Row("a", 0, ids, (Draw(params, 0, (5, 6), 1),), (0,)),))))
assert not {"torch._dynamo", "torch._inductor", "sympy", "networkx"} & set(sys.modules)
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-W", "error", "-c", script, str(directory)], check=True, cwd=root, timeout=60)


def test_threads_hold_in_the_step_thread(write_model: Callable[..., Path]) -> None:
    """A runner used from another thread than the one that loaded it starts no more compute threads than allowed."""
    directory = write_model("llama2", hidden_size=512, intermediate_size=2048, num_hidden_layers=1)
    script = """
import os, pathlib, sys, threading
from llorch.batching.plan import Row
from llorch.model import load_model
model = load_model(pathlib.Path(sys.argv[1]), slots=1, threads=1)
row = Row("a", 0, tuple(range(64)), (), (0,))
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
    cache = KvCache(config, blocks=1 << 16, dtype=torch.float32)
    assert resident_bytes() - before < 16 << 20
    cache.store(0, torch.tensor([1 << 21]), torch.ones(1, 4, 4))
    assert cache.read(0, (1 << 14,)).sum() == 16 and resident_bytes() - before < 16 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tensor_bytes(directory: Path) -> list[int]:
    from safetensors import safe_open

    with safe_open(str(directory / "model.safetensors"), framework="pt") as file:
        return [file.get_tensor(name).nbytes for name in file.keys()]  # noqa: SIM118  (not a dict)


def test_unknown_model_type_names_the_supported_ones(directory: Path) -> None:
    """An unknown model_type is refused, naming what is supported."""
    change_config(directory, model_type="gpt2")
    with pytest.raises(
        InvalidModel, match=r"'gpt2' is not supported; supported are llama, mistral, phi3, qwen2, qwen3"
    ):
        load_model(directory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "gelu"}, "activation"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope scaling 'yarn' is not supported; supported are default, li"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial rotary"),
        ({"rope_parameters": {"rope_theta": -1}}, "rope_theta must be a positive number"),
        ({"vocab_size": None}, "vocab_size"),
        ({"eos_token_id": ["2"]}, "eos_token_id must be"),
        ({"model_type": "mistral", "sliding_window": -1}, "sliding_window must be"),
        ({"model_type": "qwen2", "layer_types": ["full_attention"]}, "one kind for each layer"),
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
    change_config(directory, max_position_embeddings=1 << 20)
    with pytest.raises(InsufficientMemory, match="are needed for weights and a context of 1048576 positions"):
        load_model(directory, slots=1, context=1 << 20)
    model = load_model(directory, slots=2)
    assert 2048 < model.context_length < 1 << 20
    assert model.context_length % 128 == 0
    assert model.kv_blocks == 2 * model.context_length // 128


def test_slots_share_blocks_where_memory_is_short(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is bounded by memory or by `kv_bytes`, below what all slots could use, but holds one whole context."""
    block_bytes = 128 * 3 * 2 * 2 * 16 * 4
    monkeypatch.setattr(process, "available_memory_bytes", lambda: GIB // 8)
    model = load_model(directory, slots=4000, context=500)
    assert (model.context_length, model.slots) == (500, 4000)
    assert 4 <= model.kv_blocks < 4000 * 4
    model = load_model(directory, slots=8, context=500, kv_bytes=5 * block_bytes + 1)
    assert (model.context_length, model.kv_blocks) == (500, 5)
    assert load_model(directory, slots=8, context=500, kv_bytes=GIB).kv_blocks == 8 * 4
    with pytest.raises(InsufficientMemory, match="a context of 500 positions needs"):
        load_model(directory, slots=8, context=500, kv_bytes=3 * block_bytes)


def test_everything_but_the_graph_is_free_of_torch(directory: Path) -> None:
    """`llorch.model` imports no torch, and reads configuration, tokenizer and recipe of a model without it."""
    script = """
import pathlib, sys
import llorch.model
from llorch.model.checkpoint import Checkpoint
from llorch.model.config import read_config
from llorch.model.recipe import read_recipe
directory = pathlib.Path(sys.argv[1])
config, tokenizer, checkpoint = read_config(directory), llorch.model.Tokenizer(directory), Checkpoint(directory)
recipe = read_recipe(config, checkpoint)
assert len(checkpoint.mapped(recipe.norm)) == recipe.norm.size_bytes > 0
assert tokenizer.encode("once") and config.rope.frequencies()
assert not {"torch", "safetensors", "numpy"} & set(sys.modules)
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-W", "error", "-c", script, str(directory)], check=True, cwd=root, timeout=60)


def test_dtype_follows_storage_size_and_processor(
    write_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """AUTO takes bf16 for a large model stored so on a processor that has it; asking for it elsewhere is refused."""
    stored = write_model("qwen2", dtype=torch.bfloat16)
    monkeypatch.setattr(hardware, "has_native_bf16", lambda: True)
    assert load_model(stored, slots=1).capabilities.dtype == "fp32"
    monkeypatch.setattr(loaded, "SMALL_MODEL_BYTES", 0)
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
