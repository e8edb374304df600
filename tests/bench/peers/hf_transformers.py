"""Hugging Face transformers in a child process: prefill, and greedy `generate` of one sequence in bf16."""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from time import perf_counter
from typing import Any

from peers.child import serve


def _load(directory: Path, threads: int, dtype: str) -> tuple[dict[str, Any], dict[str, Any]]:
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.disable_progress_bar()
    network = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype))
    chance = random.Random(1)

    def prompt(tokens: int) -> Any:
        return torch.tensor([[chance.randrange(network.config.vocab_size) for _ in range(tokens)]])

    def generated_s(ids: Any, tokens: int) -> float:
        began = perf_counter()
        with torch.inference_mode():
            network.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
            )
        return perf_counter() - began

    def likeliest(prompt: list[int], text: list[int]) -> dict[str, Any]:
        with torch.inference_mode():
            logits = network(torch.tensor([[*prompt, *text[:-1]]])).logits[0, len(prompt) - 1 :]
        return {"tokens": logits.argmax(-1).tolist()}

    def decode(batch: int, context: int, steps: int) -> dict[str, Any]:
        assert batch == 1
        ids = prompt(context)
        return {"tokens_per_s": steps / (generated_s(ids, steps + 1) - generated_s(ids, 1))}

    def prefill(tokens: int) -> dict[str, Any]:
        return {"tokens_per_s": tokens / generated_s(prompt(tokens), 1)}

    prefill(64)
    return {"version": transformers.__version__}, {"decode": decode, "prefill": prefill, "likeliest": likeliest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    args = parser.parse_args()
    serve(lambda: _load(args.model, args.threads, args.dtype))


if __name__ == "__main__":
    main()
