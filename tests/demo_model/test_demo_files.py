"""The model directory that ships: whole, small, and readable by everyone."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import samples
import torch
import words
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from tokenizers import Tokenizer

SIZE_BYTES_MAX = 8_000_000
FILES = {
    "SHA256SUMS",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
RAW_PROMPTS = [
    "Once upon a time",
    "Hello, how are you?",
    "Tell me a story about a dragon.",
    "Max the dog",
    "Long ago",
    "I am",
    "Lily was",
    "One day",
]


@pytest.fixture(scope="session")
def tokenizer(demo_directory: Path) -> Tokenizer:
    """The shipped tokenizer."""
    return Tokenizer.from_file(str(demo_directory / "tokenizer.json"))


@pytest.fixture(scope="session")
def config(demo_directory: Path) -> dict[str, object]:
    """The shipped config.json."""
    return json.loads((demo_directory / "config.json").read_text())


def test_hashes_match_and_nothing_else_is_there(demo_directory: Path) -> None:
    """SHA256SUMS names every other file with its hash, and the whole is at most 8 MB."""
    assert {path.name for path in demo_directory.iterdir()} == FILES
    listed = dict(reversed(line.split("  ")) for line in (demo_directory / "SHA256SUMS").read_text().splitlines())
    assert listed == {
        name: hashlib.sha256((demo_directory / name).read_bytes()).hexdigest() for name in FILES - {"SHA256SUMS"}
    }
    assert sum(path.stat().st_size for path in demo_directory.iterdir()) <= SIZE_BYTES_MAX


def test_shape_suits_the_kernels(config: dict[str, int]) -> None:
    """Sizes are multiples of 64, heads are 64 wide, queries are grouped, the context is 2,048 or more."""
    assert config["hidden_size"] % 64 == 0
    assert config["intermediate_size"] % 64 == 0
    assert config["head_dim"] == 64
    assert config["num_key_value_heads"] < config["num_attention_heads"]
    assert config["max_position_embeddings"] >= 2048
    assert config["tie_word_embeddings"]


def test_tensors_have_the_published_names_and_the_promised_size(demo_directory: Path, config: dict[str, int]) -> None:
    """1 to 4 million parameters, under the names that every Llama reader expects."""
    with safe_open(demo_directory / "model.safetensors", "pt") as file:
        names = set(file.keys())
        count = sum(file.get_tensor(name).numel() for name in names)
    assert 1_000_000 <= count <= 4_000_000
    assert "model.embed_tokens.weight" in names
    for layer in range(config["num_hidden_layers"]):
        assert f"model.layers.{layer}.self_attn.q_proj.weight" in names
        assert f"model.layers.{layer}.mlp.down_proj.weight" in names


def test_special_tokens_end_a_text(config: dict[str, object], tokenizer: Tokenizer) -> None:
    """Both ends are EOS; all control tokens are single ids."""
    assert config["eos_token_id"] == [tokenizer.token_to_id(samples.END_OF_TEXT), tokenizer.token_to_id(samples.END)]
    for token in samples.SPECIAL_TOKENS:
        assert tokenizer.encode(token).ids == [tokenizer.token_to_id(token)]


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=200))
def test_any_text_comes_back_as_it_was(tokenizer: Tokenizer, text: str) -> None:
    """Byte-level BPE with the whole byte alphabet loses nothing."""
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@pytest.fixture(scope="session")
def oracle(demo_directory: Path):  # type: ignore[no-untyped-def]
    """The model as the reference implementation reads it, in float32."""
    transformers = pytest.importorskip("transformers")
    torch.set_num_threads(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(demo_directory)
    assert model.dtype == torch.float32
    return model.eval(), transformers.AutoTokenizer.from_pretrained(demo_directory)


def told(oracle, ids: list[int]) -> tuple[str, bool]:  # type: ignore[no-untyped-def]
    """The greedy answer of the reference, and whether it ended with EOS within 250 tokens."""
    model, tokenizer = oracle
    with torch.no_grad():
        output = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=250, pad_token_id=0)[
            0, len(ids) :
        ].tolist()
    return tokenizer.decode(output, skip_special_tokens=True), output[-1] in model.config.eos_token_id


def assert_is_a_story(text: str, stopped: bool) -> None:
    """It stops by itself, is long enough, and does not say any 12 words twice."""
    assert stopped, text
    split = text.split()
    assert len(split) >= 40, text
    runs = [tuple(split[i : i + 12]) for i in range(len(split) - 11)]
    assert len(set(runs)) == len(runs), text


@pytest.fixture(scope="session")
def raw_answers(oracle) -> dict[str, tuple[str, bool]]:  # type: ignore[no-untyped-def]
    """What the reference makes of each plain prompt."""
    return {prompt: told(oracle, oracle[1](prompt)["input_ids"]) for prompt in RAW_PROMPTS}


@pytest.mark.parametrize("prompt", RAW_PROMPTS)
def test_raw_prompts_become_stories(raw_answers: dict[str, tuple[str, bool]], prompt: str) -> None:
    """The reference continues a plain prompt to a story that ends by itself."""
    assert_is_a_story(*raw_answers[prompt])


def answer(oracle, request: str) -> tuple[str, bool]:  # type: ignore[no-untyped-def]
    """The greedy answer to one message, and whether it ended with EOS."""
    messages = [{"role": "user", "content": request}]
    text = oracle[1].apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return told(oracle, oracle[1](text)["input_ids"])


def names_in(text: str) -> set[str]:
    """The heroes of the grammar that a text names."""
    return set(re.findall(r"[A-Z]\w+", text)) & set(words.NAMES)


@pytest.mark.parametrize(("kind", "name"), [("fox", "Pip"), ("dragon", "Lily"), ("penguin", "Oscar")])
def test_a_story_is_about_whom_was_asked_for(oracle, kind: str, name: str) -> None:  # type: ignore[no-untyped-def]
    """Kind and name of the request are those of the hero, and nobody else is named."""
    story, stopped = answer(oracle, f"Tell me a story about a {kind} named {name}.")
    assert_is_a_story(story, stopped)
    assert kind in story
    assert names_in(story) == {name}, story


def test_a_hero_keeps_the_name_it_began_with(raw_answers: dict[str, tuple[str, bool]]) -> None:
    """A name in a plain beginning is the only one of the story."""
    assert names_in(raw_answers["Max the dog"][0]) == {"Max"}


def test_different_prompts_give_different_stories(raw_answers: dict[str, tuple[str, bool]]) -> None:
    """No two of the eight prompts end in the same text."""
    assert len({text for text, _ in raw_answers.values()}) == len(RAW_PROMPTS) == 8


def test_a_question_about_the_model_gets_a_short_answer(oracle) -> None:  # type: ignore[no-untyped-def]
    """It says what it is instead of telling a story."""
    text, stopped = answer(oracle, "What is your name?")
    assert stopped
    assert "Demo" in text
    assert len(text.split()) < 40
