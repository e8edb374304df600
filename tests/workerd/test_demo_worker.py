"""The embedded demo model behind a real worker: fluent text that ends by itself, the same however it is produced."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from worker_rig import Worker, ids_of, starting, text_of

STORY = {"prompt": "Once upon a time", "max_tokens": 200, "temperature": 0}
CHAT = {"messages": [{"role": "user", "content": "Tell me a story about a fox."}], "max_tokens": 200}
SAMPLED = {**CHAT, "temperature": 0.9, "top_p": 0.95, "seed": 77}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """The user's own line: llorch worker --model demo."""
    with starting(tmp_path_factory.mktemp("demo")) as start:
        yield start("--model", "demo")


def test_the_demo_tells_a_story(demo: Worker) -> None:
    """A story ends by itself; the worker serves it exactly, in bf16 on native kernels and in fp32 on torch."""
    events = demo.generate(job_id="story", **STORY)
    assert events[-1]["stop_reason"] == "EOS" and text_of(events).rstrip().endswith((".", "!", '"'))
    health = demo.health()
    assert health["model"] == "demo"
    capabilities = health["capabilities"]
    assert (capabilities["kernels"], capabilities["dtype"]) in (("native", "bf16"), ("torch", "fp32"))
    assert capabilities["row_invariant"] is True


@pytest.mark.parametrize("body", [STORY, SAMPLED], ids=["greedy", "sampled"])
def test_cut_anywhere_it_is_the_same_story(demo: Worker, body: dict[str, Any]) -> None:
    """Continued from the ids relayed so far, beside seven other jobs, a story is the story told alone."""
    whole = demo.generate(job_id="whole", **body)
    tokens = [event for event in whole if event["type"] == "token"]
    cuts = [1, 2, 3, len(tokens) // 3, len(tokens) // 2, len(tokens) - 2, len(tokens) - 1, len(tokens)]

    def continued(cut: int) -> str:
        resume = {"token_ids": ids_of(tokens[:cut]), "next_i": cut}
        rest = demo.generate(job_id=f"cut-{cut}", resume=resume, **body)
        assert rest[-1]["tokens_out"] == whole[-1]["tokens_out"]
        assert rest[-1]["stop_reason"] == whole[-1]["stop_reason"]
        return text_of(tokens[:cut]) + text_of(rest)

    with ThreadPoolExecutor(len(cuts)) as pool:
        assert set(pool.map(continued, cuts)) == {text_of(whole)}


def test_the_template_is_the_models_own(demo: Worker) -> None:
    """Messages are rendered by the model's own template and tokenised as one text."""
    import tokenizers

    directory = Path(__file__).parents[2] / "llorch/assets/demo"
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "  A story,\nplease\u2026 "}]
    text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages) + "<|im_start|>assistant\n"
    expected = tokenizer.encode(text, add_special_tokens=False).ids
    assert demo.call("/tokenize", {"messages": messages})[1]["ids"] == expected
