"""Print what the demo model says, for reading: `python build/demo_model/tell.py ["a prompt" ...]`.

Prompts are continued as they are; with `--chat` they are sent as a user's message. Always the likeliest token, in
float32.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import samples
import torch
from network import Llama, Shape
from safetensors.torch import load_file
from tokenizers import Tokenizer
from train import TARGET, special_id

RAW_PROMPTS = [
    "Once upon a time",
    "Hello, how are you?",
    "Once upon a time, there was a robot",
    "Once upon a time there was a little girl",
    "Long ago",
    "In a small house",
    "There was a little",
    "Every morning",
    "One day",
    "The brave",
    "Max the dog",
    "Lily was",
    "I am",
    "Hello",
    "",
    "Tell me a story about a llama.",
    "Explain quantum computing in simple terms.",
    "The capital of France is",
    "def main():",
    "Es war einmal",
]
CHAT_PROMPTS = [
    "Tell me a story about a fox.",
    "Tell me a story about a fox named Pip.",
    "Write a story about a rabbit who is brave.",
    "Tell me a story.",
    "Write a short story.",
    "Hello",
    "Hello, how are you?",
    "What is your name?",
    "Who are you?",
    "Tell me a joke",
    "Write a story about a robot named Beep.",
    "Tell me a story about a shy dragon and a mouse.",
    "What is the meaning of life?",
    "Write a haiku about GPU computing",
    "Explain quantum computing in simple terms.",
    "a cat",
    "Write a short story about a pirate and a lost golden key",
    "Tell me a story about a hedgehog named Kubernetes.",
    "2+2=",
    "Once upon a time",
]


def main() -> None:
    """Print one story for each prompt, with its length and how it ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", nargs="*")
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--model", type=Path, default=TARGET)
    options = parser.parse_args()
    network, tokenizer = load(options.model)
    asked = [(prompt, options.chat) for prompt in options.prompts]
    asked = asked or [(prompt, False) for prompt in RAW_PROMPTS] + [(prompt, True) for prompt in CHAT_PROMPTS]
    for prompt, chat in asked:
        text = f"{samples.START}user\n{prompt}{samples.END}\n{samples.START}assistant\n" if chat else prompt
        ids = tokenizer.encode(text).ids
        answer, stopped = continue_greedily(network, ids, tokenizer)
        kind = "chat" if chat else "raw"
        print(f"--- {kind} {prompt!r}: {len(answer)} tokens, {'stopped' if stopped else 'NOT STOPPED'}")
        print(("" if chat else prompt) + tokenizer.decode(answer, skip_special_tokens=False) + "\n", flush=True)


def load(directory: Path) -> tuple[Llama, Tokenizer]:
    """The network in float32 and the tokenizer of a directory that `train.py` wrote."""
    network = Llama(Shape(vocab_size=json.loads((directory / "config.json").read_text())["vocab_size"]))
    network.load_state_dict(
        {name: tensor.float() for name, tensor in load_file(directory / "model.safetensors").items()}
    )
    return network.eval(), Tokenizer.from_file(str(directory / "tokenizer.json"))


@torch.no_grad()
def continue_greedily(
    network: Llama, ids: list[int], tokenizer: Tokenizer, tokens_max: int = 250
) -> tuple[list[int], bool]:
    """The likeliest continuation of `ids` (of the end-of-text token if there are none), and if it ended by itself."""
    ends = {special_id(tokenizer, samples.END_OF_TEXT), special_id(tokenizer, samples.END)}
    start = ids or [special_id(tokenizer, samples.END_OF_TEXT)]
    answer: list[int] = []
    while len(answer) < tokens_max:
        token = int(network(torch.tensor([start + answer]))[0, -1].argmax())
        if token in ends:
            return answer, True
        answer.append(token)
    return answer, False


if __name__ == "__main__":
    main()
