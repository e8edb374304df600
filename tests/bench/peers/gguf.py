"""Writes a model directory as a BF16 GGUF file, the container llama.cpp reads: Llama and Qwen2 shapes.

Only what llama.cpp needs to run the model: weights keep their bits, vectors become fp32 as llama.cpp wants them. The
vendored converter is not used: it refuses a tokenizer whose hash it does not know.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from llorch.base.errors import InvalidModel

if TYPE_CHECKING:
    from torch import Tensor

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32
F32, BF16 = 0, 30
MOSTLY_BF16 = 32
NORMAL, CONTROL, UNUSED = 1, 3, 5
SUPPORTED = ("llama", "qwen2")

# Of one layer: the name in safetensors -> the name in GGUF.
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
MODEL_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of the file: where it lies in the model directory and what it becomes."""

    source: str
    name: str
    shape: tuple[int, ...]

    @property
    def kind(self) -> int:
        return BF16 if len(self.shape) == 2 else F32

    @property
    def size(self) -> int:
        count = 1
        for extent in self.shape:
            count *= extent
        return count * (2 if self.kind == BF16 else 4)


def write_gguf(directory: Path, target: Path) -> None:
    """Convert; `target` appears when it is complete. Raises InvalidModel for a family it does not know."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") not in SUPPORTED:
        raise InvalidModel(f"to compare with llama.cpp a model must be one of {', '.join(SUPPORTED)}")
    part = target.with_suffix(".part")
    with open(part, "wb") as file:
        _write(file, directory, config)
    part.rename(target)


def _write(file: BinaryIO, directory: Path, config: dict[str, Any]) -> None:
    from safetensors import safe_open

    shards = [safe_open(str(path), framework="pt") for path in sorted(directory.glob("*.safetensors"))]
    home = {name: shard for shard in shards for name in shard.keys()}  # noqa: SIM118  (a shard is no dict)
    tied = config.get("tie_word_embeddings", False)
    entries = [
        Entry(source, _gguf_name(source), tuple(home[source].get_slice(source).get_shape()))
        for source in home
        if not (tied and source == "lm_head.weight")
    ]
    facts = {**_dimensions(config), **_vocabulary(directory, config)}
    file.write(MAGIC + struct.pack("<IQQ", VERSION, len(entries), len(facts)))
    for key, value in facts.items():
        file.write(_text(key) + _typed(value))
    offset = 0
    for entry in entries:
        extents = struct.pack(f"<{len(entry.shape)}Q", *reversed(entry.shape))
        file.write(_text(entry.name) + struct.pack("<I", len(entry.shape)) + extents)
        file.write(struct.pack("<IQ", entry.kind, offset))
        offset += -(-entry.size // ALIGNMENT) * ALIGNMENT
    for entry in entries:
        file.write(bytes(-file.tell() % ALIGNMENT))
        file.write(_bytes_of(entry, home[entry.source].get_tensor(entry.source), config))


def _gguf_name(source: str) -> str:
    stem, _, kind = source.rpartition(".")
    if stem in MODEL_NAMES:
        return f"{MODEL_NAMES[stem]}.{kind}"
    number, _, rest = stem.removeprefix("model.layers.").partition(".")
    if rest not in LAYER_NAMES:
        raise InvalidModel(f"tensor {source} has no name in GGUF")
    return f"blk.{number}.{LAYER_NAMES[rest]}.{kind}"


def _bytes_of(entry: Entry, tensor: Tensor, config: dict[str, Any]) -> bytes:
    import torch

    if config["model_type"] == "llama" and entry.name.endswith(("attn_q.weight", "attn_k.weight")):
        is_query = entry.name.endswith("attn_q.weight")
        tensor = _interleaved(tensor, config["num_attention_heads" if is_query else "num_key_value_heads"])
    if entry.kind == F32:
        return tensor.to(torch.float32).numpy().tobytes()
    return tensor.to(torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes()


def _interleaved(tensor: Tensor, heads: int) -> Tensor:
    """Rows in the order of llama.cpp's rotary embedding, which turns neighbours and not halves of a head."""
    rows, columns = tensor.shape
    return tensor.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def _dimensions(config: dict[str, Any]) -> dict[str, Any]:
    kind = config["model_type"]
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return {
        "general.architecture": kind,
        "general.name": kind,
        "general.file_type": MOSTLY_BF16,
        "general.alignment": ALIGNMENT,
        f"{kind}.block_count": config["num_hidden_layers"],
        f"{kind}.context_length": config["max_position_embeddings"],
        f"{kind}.embedding_length": config["hidden_size"],
        f"{kind}.feed_forward_length": config["intermediate_size"],
        f"{kind}.attention.head_count": config["num_attention_heads"],
        f"{kind}.attention.head_count_kv": config["num_key_value_heads"],
        f"{kind}.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        f"{kind}.rope.freq_base": float(_rope_theta(config)),
        f"{kind}.rope.dimension_count": head_dim,
        f"{kind}.vocab_size": config["vocab_size"],
    }


def _rope_theta(config: dict[str, Any]) -> float:
    return config.get("rope_theta") or config.get("rope_parameters", {}).get("rope_theta", 10_000.0)


def _vocabulary(directory: Path, config: dict[str, Any]) -> dict[str, Any]:
    tokenizer = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    texts = {number: text for text, number in tokenizer["model"]["vocab"].items()}
    added = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    count = config["vocab_size"]
    tokens = [added.get(number) or texts.get(number) or f"[PAD{number}]" for number in range(count)]
    types = [CONTROL if n in added else NORMAL if n in texts else UNUSED for n in range(count)]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]]
    facts = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_bos_token": False,
    }
    for key, field in (("bos", "bos_token_id"), ("eos", "eos_token_id")):
        value = config.get(field)
        if value is not None:
            facts[f"tokenizer.ggml.{key}_token_id"] = value[0] if isinstance(value, list) else value
    return facts


def _text(value: str) -> bytes:
    data = value.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _typed(value: Any) -> bytes:
    """A value with its type number in front: bool, uint32, float32, string, or an array of int32 or strings."""
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    return b"".join(_array(value))


def _array(values: list[Any]) -> Iterator[bytes]:
    texts = isinstance(values[0], str) if values else True
    yield struct.pack("<IIQ", 9, 8 if texts else 5, len(values))
    if texts:
        yield from (_text(value) for value in values)
    else:
        yield struct.pack(f"<{len(values)}i", *values)
