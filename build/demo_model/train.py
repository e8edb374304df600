"""Train the demo model from nothing and write its directory: `python build/demo_model/train.py`.

Everything follows from `--seed`: the stories, the tokenizer, the first weights. No text comes from outside this folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random

import samples
import torch
import words
from network import Llama, Shape
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional

TARGET = Path(__file__).resolve().parents[2] / "llorch" / "assets" / "demo"
NOT_LEARNED = -100
SEED = 7
SHAPE = Shape()
SHAPES = {
    "demo": SHAPE,
    # 10 million parameters, for measurements that a small model says little about; never shipped
    "large": Shape(hidden_size=512, intermediate_size=1024, layers=4, heads=8, kv_heads=4),
}
TOKENS_PER_STEP = 2_048
POOL_DOCUMENTS = 512
HELD_OUT_BATCHES = 16
LONG_EVERY_STEPS = 32  # every 32nd step has rows as long as the whole context, so that late positions are trained, too
WARMUP_STEPS = 40


def main() -> None:
    """Train, write, and report the loss on stories that were not trained on."""
    options = parse_options()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    began = time.monotonic()
    shape = SHAPES[options.shape]
    tokenizer = train_tokenizer(options.seed, shape.vocab_size)
    network = Llama(shape)
    count = sum(weight.numel() for weight in network.parameters())
    print(f"parameters={count} vocab={tokenizer.get_vocab_size()} steps={options.steps}", flush=True)
    steps = train(network, tokenizer, options)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(weight.bfloat16())  # what ships is what is evaluated
    loss, accuracy = held_out(network, tokenizer, options.seed + 1)
    write_directory(options.out, network, tokenizer, shape)
    minutes = (time.monotonic() - began) / 60
    print(
        f"held_out_loss={loss:.4f} name_accuracy={accuracy:.4f} steps={steps} minutes={minutes:.1f} out={options.out}"
    )


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="demo", help="any other needs --out")
    parser.add_argument("--steps", type=int, default=2250)
    parser.add_argument("--minutes", type=float, default=20.0, help="end sooner, at a lower rate, when time runs out")
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.out is None:
        if options.shape != "demo":
            parser.error("--out is needed: only the demo model ships")
        options.out = TARGET
    return options


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


Document = tuple[list[int], list[int]]
Batch = tuple[torch.Tensor, torch.Tensor]


def documents(tokenizer: Tokenizer, rng: Random) -> Iterator[Document]:
    """Endless samples as ids and their targets, which lie one position ahead."""
    while True:
        ids: list[int] = []
        targets: list[int] = []
        for part in samples.sample(rng):
            piece = [special_id(tokenizer, part.text)] if part.special else tokenizer.encode(part.text).ids
            ids += piece
            targets += piece if part.learned else [NOT_LEARNED] * len(piece)
        yield ids[:-1], targets[1:]


def short_batches(tokenizer: Tokenizer, seed: int) -> Iterator[Batch]:
    """Endless batches of whole documents, one a row: neighbours in length lie together, so that little is padding."""
    rng = Random(seed)
    source = documents(tokenizer, rng)
    while True:
        pool = sorted((next(source) for _ in range(POOL_DOCUMENTS)), key=lambda document: len(document[0]))
        cuts = [0]
        for index, (ids, _) in enumerate(pool):
            if (index + 1 - cuts[-1]) * len(ids) > TOKENS_PER_STEP:
                cuts.append(index)
        groups = [pool[start:end] for start, end in pairwise(cuts)]
        rng.shuffle(groups)
        yield from map(padded, groups)


def padded(group: list[Document]) -> Batch:
    """Ids and targets as int64 tensors [documents, longest]; padding is never learned."""
    length = max(len(ids) for ids, _ in group)
    return (
        torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in group]),
        torch.tensor([targets + [NOT_LEARNED] * (length - len(targets)) for _, targets in group]),
    )


def long_batches(tokenizer: Tokenizer, seed: int) -> Iterator[Batch]:
    """Endless batches whose rows are as long as the context: documents one after the other, as in a long chat."""
    source = documents(tokenizer, Random(seed))
    while True:
        group = []
        for _ in range(TOKENS_PER_STEP // SHAPE.positions_max):
            ids: list[int] = []
            targets: list[int] = []
            while len(ids) < SHAPE.positions_max:
                more_ids, more_targets = next(source)
                ids += [special_id(tokenizer, samples.END_OF_TEXT), *more_ids]
                targets += [NOT_LEARNED, *more_targets]
            group.append((ids[: SHAPE.positions_max], targets[: SHAPE.positions_max]))
        yield padded(group)


def train(network: Llama, tokenizer: Tokenizer, options: argparse.Namespace) -> int:
    """Muon for the matrices of the layers, AdamW for the rest, one rate for both; returns how many steps there were.

    Muon: Jordan et al. 2024, with the update scaled to the size of AdamW's. The time limit lowers the rate as the count
    of steps does, whichever is further on.
    """
    hidden = [weight for name, weight in network.named_parameters() if weight.dim() == 2 and "embed" not in name]
    others = [weight for name, weight in network.named_parameters() if weight.dim() != 2 or "embed" in name]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(hidden, lr=options.rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=options.rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    short, long = short_batches(tokenizer, options.seed + 1000), long_batches(tokenizer, options.seed + 2000)
    began, smooth = time.monotonic(), 0.0
    for step in range(options.steps):
        progress = max(step / options.steps, (time.monotonic() - began) / (60 * options.minutes))
        if progress >= 1:
            return step
        is_long = step % LONG_EVERY_STEPS == LONG_EVERY_STEPS - 1
        ids, targets = next(long if is_long else short)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = options.rate * share_of_rate(step, progress)
            optimizer.zero_grad(set_to_none=True)
        loss = mean_loss(network, ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        smooth = loss.item() if step == 0 else 0.95 * smooth + 0.05 * loss.item()
        if step % 50 == 0:
            print(f"step={step} loss={smooth:.4f} seconds={time.monotonic() - began:.0f}", flush=True)
    return int(options.steps)


def share_of_rate(step: int, progress: float) -> float:
    """Linear warm-up, then a straight line down to 2 % of the highest rate at `progress` 1."""
    return min((step + 1) / WARMUP_STEPS, 0.02 + 0.98 * min(1.0, 1.25 * (1 - progress)))


def mean_loss(network: Llama, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats over the learned targets."""
    learned = targets != NOT_LEARNED
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(ids, learned)
    return functional.cross_entropy(logits.float(), targets[learned])


@torch.no_grad()
def held_out(network: Llama, tokenizer: Tokenizer, seed: int) -> tuple[float, float]:
    """On text that training never saw, in float32: mean loss in nats a token, and how often a name comes back right.

    A name counts where the text repeats one that its request or its story has named before.
    """
    source = short_batches(tokenizer, seed + 3000)
    names = {tokenizer.encode(" " + name).ids[0] for name in words.NAMES}
    losses, right = [], []
    for _ in range(HELD_OUT_BATCHES):
        ids, targets = next(source)
        logits = network(ids)
        losses.append(functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NOT_LEARNED))
        for row, column in (targets != NOT_LEARNED).nonzero().tolist():
            name = targets[row, column].item()
            if name in names and name in ids[row, : column + 1].tolist():
                right.append(logits[row, column].argmax().item() == name)
    return torch.stack(losses).mean().item(), sum(right) / len(right)


def write_directory(out: Path, network: Llama, tokenizer: Tokenizer, shape: Shape = SHAPE) -> None:
    """The model directory as the worker and the hub's readers expect it, and the hashes of its files."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    tensors = {name: weight.detach().bfloat16().contiguous() for name, weight in network.named_parameters()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # the writer makes it private
    end_of_text, end = special_id(tokenizer, samples.END_OF_TEXT), special_id(tokenizer, samples.END)
    write_json(out / "config.json", config_of(shape, [end_of_text, end]))
    write_json(out / "generation_config.json", {"eos_token_id": [end_of_text, end], "max_new_tokens": 256})
    write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": shape.positions_max,
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
