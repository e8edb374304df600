"""Tiny random models of every family: their configurations and their tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers

VOCAB = 320
CONTEXT = 512
KERNELS = ("torch", *(f"{isa}{int8}" for isa in ("avx2", "avx512", "amx") for int8 in ("", "-int8")))
"""The torch graph, and each variant of the native kernels with bf16 and with int8 weights."""

SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.02, 1.05, 1.1, 1.1, 1.2, 1.3, 1.4],
    "long_factor": [1.1, 1.3, 1.8, 2.5, 4.0, 8.0, 20.0, 40.0],
}
PARTIAL_LONGROPE = {
    **LONGROPE,
    "partial_rotary_factor": 0.75,
    "short_factor": LONGROPE["short_factor"][:6],
    "long_factor": LONGROPE["long_factor"][:6],
}
PHI3 = {"pad_token_id": 0}
TIED = {"tie_word_embeddings": True}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama2": ("Llama", {}),
    "llama3": ("Llama", {"num_key_value_heads": 2, "rope_parameters": LLAMA3_ROPE}),
    "llama_linear": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}, "attention_bias": True},
    ),
    "tinyllama": ("Llama", {"hidden_size": 128, "num_attention_heads": 8, "num_key_value_heads": 2}),
    "wide_head": ("Llama", {"head_dim": 64, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen2_window": (
        "Qwen2",
        {"num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1},
    ),
    "smollm": ("Llama", {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2, **TIED}),
    "qwen3": ("Qwen3", {"num_key_value_heads": 2, "head_dim": 32, **TIED}),
    "qwen3_bias": ("Qwen3", {"num_key_value_heads": 2, "head_dim": 16, "attention_bias": True}),
    "mistral": ("Mistral", {"num_key_value_heads": 2, "sliding_window": 33}),
    "phi3": ("Phi3", {"num_key_value_heads": 2, "sliding_window": 100, **PHI3}),
    "phi3_long": ("Phi3", {**PHI3, "rope_parameters": LONGROPE, "original_max_position_embeddings": 96}),
    "phi3_partial": ("Phi3", {**PHI3, "rope_parameters": PARTIAL_LONGROPE, "original_max_position_embeddings": 96}),
}
LONG_FROM = {"phi3_long": 96, "phi3_partial": 96}


def write_tokenizer(directory: Path) -> None:
    """A byte-level BPE of at most VOCAB ids with <s>, </s> and two chat control tokens; it puts <s> first."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<unk>", "<s>", "</s>", "<|start|>", "<|stop|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["once upon a time there was a little fox who liked the sea"] * 3, trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": "{{ messages }}"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
