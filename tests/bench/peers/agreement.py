"""Do all sides compute the same model? Greedy tokens after the same prompt, up to the first that differs.

The figures would be worth nothing if a converted model computed something else. Near ties make even sound programs part
after a while, so the share of tokens before that is what is reported.
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
    """`greedy_<name>_as_llamacpp`: the share of tokens before the first difference, for every child."""
    chance = random.Random(3)
    for _ in range(PROMPTS):
        prompt = [chance.randrange(ids_below) for _ in range(PROMPT_TOKENS)]
        theirs = _llama_greedy(server, prompt)
        for name, child in children.items():
            ours = child.ask("greedy", prompt=prompt, tokens=TOKENS)["tokens"]
            pairs = list(zip(ours, theirs, strict=True))
            same = next((index for index, (mine, other) in enumerate(pairs) if mine != other), TOKENS)
            figures.add(f"greedy_{name}_as_llamacpp", same / TOKENS)
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
