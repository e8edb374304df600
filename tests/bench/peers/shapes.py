"""Writes a model directory with random bf16 weights in the exact shape of a known model.

A benchmark depends on the shape, never on the values, with two exceptions that are taken care of here: greedy text
does not repeat itself (that would flatter whoever speculates), because the next token depends mostly on the last one
and hardly on its own embedding; and the end-of-text token is never the likeliest, so that texts have full length.
"""

from __future__ import annotations

import json
import math
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGED_TOKENS = 31_000
SOURCES_MAX = 1500
EMBEDDING_STD = 0.02
BIAS_STD = 0.1
ATTENTION_SHARE = 0.3  # with 1.0, attention averages everything and greedy text is one token for ever
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's published dimensions. `tokens` are those of its tokenizer; the vocabulary may be padded beyond them."""

    model_type: str
    architecture: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    tokens: int
    context: int
    rope_theta: float
    norm_eps: float
    tied: bool
    qkv_bias: bool

    def config(self) -> dict[str, Any]:
        """As config.json."""
        return {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.intermediate,
            "vocab_size": self.vocab,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": self.context,
            "rope_theta": self.rope_theta,
            "rms_norm_eps": self.norm_eps,
            "hidden_act": "silu",
            "torch_dtype": "bfloat16",
            "bos_token_id": self.tokens - len(SPECIAL),
            "eos_token_id": self.tokens - 1,
        }

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every tensor's name and shape, in the order of the forward pass."""
        hidden, key_value = self.hidden, self.hidden // self.heads * self.kv_heads
        yield "model.embed_tokens.weight", (self.vocab, hidden)
        for n in range(self.layers):
            layer = f"model.layers.{n}"
            yield f"{layer}.input_layernorm.weight", (hidden,)
            for name, rows in (("q", hidden), ("k", key_value), ("v", key_value)):
                yield f"{layer}.self_attn.{name}_proj.weight", (rows, hidden)
                if self.qkv_bias:
                    yield f"{layer}.self_attn.{name}_proj.bias", (rows,)
            yield f"{layer}.self_attn.o_proj.weight", (hidden, hidden)
            yield f"{layer}.post_attention_layernorm.weight", (hidden,)
            yield f"{layer}.mlp.gate_proj.weight", (self.intermediate, hidden)
            yield f"{layer}.mlp.up_proj.weight", (self.intermediate, hidden)
            yield f"{layer}.mlp.down_proj.weight", (hidden, self.intermediate)
        yield "model.norm.weight", (hidden,)
        if not self.tied:
            yield "lm_head.weight", (self.vocab, hidden)


SHAPES = {
    "qwen2.5-0.5b": Shape(
        model_type="qwen2",
        architecture="Qwen2ForCausalLM",
        hidden=896,
        layers=24,
        heads=14,
        kv_heads=2,
        intermediate=4864,
        vocab=151_936,
        tokens=151_665,
        context=32_768,
        rope_theta=1e6,
        norm_eps=1e-6,
        tied=True,
        qkv_bias=True,
    ),
    "tinyllama-1.1b": Shape(
        model_type="llama",
        architecture="LlamaForCausalLM",
        hidden=2048,
        layers=22,
        heads=32,
        kv_heads=4,
        intermediate=5632,
        vocab=32_000,
        tokens=32_000,
        context=2048,
        rope_theta=1e4,
        norm_eps=1e-5,
        tied=False,
        qkv_bias=False,
    ),
}


def model_directory(name: str, cache: Path, say: Callable[[str], None]) -> Path:
    """The directory of a shape, written the first time."""
    directory = cache / name
    if not directory.exists():
        say(f"writing random weights in the shape of {name}")
        part = cache / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _write(SHAPES[name], part)
        part.rename(directory)
    return directory


def values_per_token(directory: Path) -> int:
    """Weights that computing one token reads: all of them, but of an embedding that is not also the head, one row."""
    from safetensors import safe_open

    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    count = 0
    for path in directory.glob("*.safetensors"):
        with safe_open(str(path), framework="pt") as shard:
            for name in shard.keys():  # noqa: SIM118  (a shard is no dict)
                if name != "model.embed_tokens.weight" or config.get("tie_word_embeddings"):
                    count += math.prod(shard.get_slice(name).get_shape())
    return count


def _write(shape: Shape, directory: Path) -> None:
    from safetensors.torch import save_file

    _write_tokenizer(shape.tokens, directory)
    config = shape.config()
    (directory / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id")}
    (directory / "generation_config.json").write_text(json.dumps(ids), encoding="utf-8")
    save_file(_random_tensors(shape), str(directory / "model.safetensors"), {"format": "pt"})


def _random_tensors(shape: Shape) -> dict[str, Any]:
    import torch

    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, size in shape.tensors():
        tensor = torch.empty(size, dtype=torch.bfloat16)
        if len(size) == 2:
            std = EMBEDDING_STD if size[0] == shape.vocab else size[1] ** -0.5
            std *= ATTENTION_SHARE if name.endswith("o_proj.weight") else 1.0
            tensor.normal_(0.0, std, generator=generator)
        elif name.endswith("bias"):
            tensor.normal_(0.0, BIAS_STD, generator=generator)
        else:
            tensor.fill_(1.0)
        tensors[name] = tensor
    head = tensors["model.embed_tokens.weight" if shape.tied else "lm_head.weight"]
    head[shape.tokens - len(SPECIAL) :] = 0.0  # end of text, and what pads the vocabulary
    return tensors


def _write_tokenizer(tokens: int, directory: Path) -> None:
    """A byte-level BPE of the Python library's sources, filled up with tokens no text contains to the right number."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    library = Path(sysconfig.get_path("stdlib"))
    sources = [str(path) for path in sorted(library.glob("**/*.py")) if "test" not in str(path.relative_to(library))]
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(tokens - len(SPECIAL), MERGED_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train(sources[:SOURCES_MAX], trainer)
    whole = json.loads(tokenizer.to_str())
    vocab = whole["model"]["vocab"]
    for number in range(len(vocab), tokens - len(SPECIAL)):
        vocab[f"Ġword{number}"] = number
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    whole["added_tokens"] = [
        {"id": tokens - len(SPECIAL) + index, "content": content, **flags} for index, content in enumerate(SPECIAL)
    ]
    (directory / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False), encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[2],
        "chat_template": CHATML,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
