"""Do all sides compute the same model? The likeliest token after every token of a text that llama.cpp wrote greedily.

The figures would be worth nothing if a converted model computed something else. Random weights have near ties, which
sound programs that round differently break differently; a wrong conversion agrees nowhere.
"""

from __future__ import annotations

import json
import random
import urllib.request
from collections.abc import Mapping

from peers.child import Child
from peers.figures import Figures
from peers.serving import Server

from llorch.base.errors import HostError

PROMPTS = 4
PROMPT_TOKENS = 24
TOKENS = 16
ANSWER_S = 120


def compare(figures: Figures, server: Server, children: Mapping[str, Child], ids_below: int) -> None:
    """`greedy_<name>_as_llamacpp`: the share of tokens that are the same, for every child."""
    chance = random.Random(3)
    for _ in range(PROMPTS):
        prompt = [chance.randrange(ids_below) for _ in range(PROMPT_TOKENS)]
        theirs = _llama_greedy(server, prompt)
        for name, child in children.items():
            ours = child.ask("likeliest", prompt=prompt, text=theirs)["tokens"]
            same = sum(mine == other for mine, other in zip(ours, theirs, strict=True))
            figures.add(f"greedy_{name}_as_llamacpp", same / len(theirs))
    for name in children:
        figures.show(f"greedy_{name}_as_llamacpp")


def _llama_greedy(server: Server, prompt: list[int]) -> list[int]:
    body = {"prompt": prompt, "n_predict": TOKENS, "temperature": 0.0, "return_tokens": True}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.url}/completion", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as response:
            tokens: list[int] = json.load(response)["tokens"]
    except OSError as problem:
        raise HostError(f"llama-server does not answer: {problem}") from None
    return tokens[:TOKENS]
