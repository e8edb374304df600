"""Train the demo model from nothing and write its directory: `python build/demo_model/train.py`.

Everything follows from `--seed`: the stories, the tokenizer, the first weights. No text comes from outside this folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import samples
import torch
from network import Llama, Shape
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional

TARGET = Path(__file__).resolve().parents[2] / "llorch" / "assets" / "demo"
NOT_LEARNED = -100
SHAPE = Shape()
ROW_POSITIONS = 256
TOKENS_PER_STEP = 4_096
LONG_EVERY_STEPS = 16  # every 16th step has rows as long as the whole context, so that late positions are trained, too
WARMUP_STEPS = 100


def main() -> None:
    """Train, write, and report the loss on stories that were not trained on."""
    options = parse_options()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    began = time.monotonic()
    tokenizer = train_tokenizer(options.seed, SHAPE.vocab_size)
    network = Llama(SHAPE)
    count = sum(weight.numel() for weight in network.parameters())
    print(f"parameters={count} vocab={tokenizer.get_vocab_size()} steps={options.steps}", flush=True)
    train(network, tokenizer, options.seed, options.steps, options.rate)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(weight.bfloat16())  # what ships is what is evaluated
    loss = held_out_loss(network, tokenizer, options.seed + 1)
    write_directory(options.out, network, tokenizer)
    print(f"held_out_loss={loss:.4f} minutes={(time.monotonic() - began) / 60:.1f} out={options.out}")


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=TARGET)
    return parser.parse_args()


def train_tokenizer(seed: int, vocab_size: int) -> Tokenizer:
    """Byte-level BPE over 20,000 samples; with all 256 bytes in its alphabet it loses nothing of any UTF-8 text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=samples.SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    rng = Random(seed)
    texts = ("".join(part.text for part in samples.sample(rng) if not part.special) for _ in range(20_000))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def special_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a control token."""
    token_id = tokenizer.token_to_id(token)
    assert token_id is not None, token
    return int(token_id)


def rows(tokenizer: Tokenizer, seed: int, length: int) -> Iterator[tuple[list[int], list[int]]]:
    """Endless rows of `length` ids with their targets; each starts with a fresh sample and is filled, never padded."""
    rng = Random(seed)
    while True:
        ids: list[int] = []
        targets: list[int] = []
        while len(ids) <= length:
            for part in samples.sample(rng):
                piece = [special_id(tokenizer, part.text)] if part.special else tokenizer.encode(part.text).ids
                ids += piece
                targets += piece if part.learned else [NOT_LEARNED] * len(piece)
        yield ids[:length], targets[1 : length + 1]


def batch(source: Iterator[tuple[list[int], list[int]]], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The next `count` rows as two int64 tensors [count, length]."""
    taken = [next(source) for _ in range(count)]
    return torch.tensor([ids for ids, _ in taken]), torch.tensor([targets for _, targets in taken])


def train(network: Llama, tokenizer: Tokenizer, seed: int, steps: int, rate_max: float) -> None:
    """AdamW with a warm-up and a cosine, in bfloat16 autocast."""
    matrices = [weight for weight in network.parameters() if weight.dim() == 2]
    vectors = [weight for weight in network.parameters() if weight.dim() != 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate_max, betas=(0.9, 0.95), fused=True)
    short = rows(tokenizer, seed + 1000, ROW_POSITIONS)
    long = rows(tokenizer, seed + 2000, SHAPE.positions_max)
    began, smooth = time.monotonic(), 0.0
    for step in range(steps):
        is_long = step % LONG_EVERY_STEPS == LONG_EVERY_STEPS - 1
        length = SHAPE.positions_max if is_long else ROW_POSITIONS
        ids, targets = batch(long if is_long else short, TOKENS_PER_STEP // length)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps, rate_max)
        loss = mean_loss(network, ids, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        smooth = loss.item() if step == 0 else 0.98 * smooth + 0.02 * loss.item()
        if step % 100 == 0:
            print(f"step={step} loss={smooth:.4f} seconds={time.monotonic() - began:.0f}", flush=True)


def rate_at(step: int, steps: int, rate_max: float) -> float:
    """Linear warm-up, then a cosine down to 2 % of the highest rate."""
    if step < WARMUP_STEPS:
        return rate_max * (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return rate_max * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def mean_loss(network: Llama, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats over the learned targets."""
    learned = targets != NOT_LEARNED
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(ids, learned)
    return functional.cross_entropy(logits.float(), targets[learned])


@torch.no_grad()
def held_out_loss(network: Llama, tokenizer: Tokenizer, seed: int) -> float:
    """Mean loss in nats a token, in float32, over 64 rows drawn from a seed that training never uses."""
    source = rows(tokenizer, seed + 3000, ROW_POSITIONS)
    losses = []
    for _ in range(8):
        ids, targets = batch(source, 8)
        learned = targets != NOT_LEARNED
        losses.append(functional.cross_entropy(network(ids, learned), targets[learned]))
    return torch.stack(losses).mean().item()


def write_directory(out: Path, network: Llama, tokenizer: Tokenizer) -> None:
    """The model directory as the worker and the hub's readers expect it, and the hashes of its files."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    tensors = {name: weight.detach().bfloat16().contiguous() for name, weight in network.named_parameters()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # the writer makes it private
    end_of_text, end = special_id(tokenizer, samples.END_OF_TEXT), special_id(tokenizer, samples.END)
    write_json(out / "config.json", config_of(SHAPE, [end_of_text, end]))
    write_json(out / "generation_config.json", {"eos_token_id": [end_of_text, end], "max_new_tokens": 256})
    write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": SHAPE.positions_max,
            "bos_token": None,
            "eos_token": samples.END_OF_TEXT,
            "add_bos_token": False,
            "clean_up_tokenization_spaces": False,
            "chat_template": samples.CHAT_TEMPLATE,
        },
    )
    names = sorted(path.name for path in out.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256((out / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (out / "SHA256SUMS").write_text("".join(lines))


def config_of(shape: Shape, eos_token_ids: list[int]) -> dict[str, object]:
    """`config.json` of a Llama checkpoint; the weights lie there as bfloat16 and are meant to run in float32."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.positions_max,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": shape.norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": eos_token_ids,
        "torch_dtype": "float32",
    }


def write_json(path: Path, value: object) -> None:
    """Readable, stable JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    main()
