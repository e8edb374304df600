"""Hugging Face transformers in a child process: prefill, and greedy `generate` of one sequence in bf16."""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from time import perf_counter
from typing import Any

from peers.child import serve


def _load(directory: Path, threads: int) -> tuple[dict[str, Any], dict[str, Any]]:
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.disable_progress_bar()
    network = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
    chance = random.Random(1)

    def prompt(tokens: int) -> Any:
        return torch.tensor([[chance.randrange(network.config.vocab_size) for _ in range(tokens)]])

    def generate(ids: Any, tokens: int) -> list[int]:
        with torch.inference_mode():
            whole = network.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
            )
        return whole[0, ids.shape[1] :].tolist()

    def generated_s(ids: Any, tokens: int) -> float:
        began = perf_counter()
        generate(ids, tokens)
        return perf_counter() - began

    def greedy(prompt: list[int], tokens: int) -> dict[str, Any]:
        return {"tokens": generate(torch.tensor([prompt]), tokens)}

    def decode(batch: int, context: int, steps: int) -> dict[str, Any]:
        assert batch == 1
        ids = prompt(context)
        return {"tokens_per_s": steps / (generated_s(ids, steps + 1) - generated_s(ids, 1))}

    def prefill(tokens: int) -> dict[str, Any]:
        return {"tokens_per_s": tokens / generated_s(prompt(tokens), 1)}

    prefill(64)
    return {"version": transformers.__version__}, {"decode": decode, "prefill": prefill, "greedy": greedy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    serve(lambda: _load(args.model, args.threads))


if __name__ == "__main__":
    main()
