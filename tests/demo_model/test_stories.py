"""The grammar that the demo model learns from: deterministic, rich, and coherent."""

from __future__ import annotations

import re
from random import Random

import jinja2.sandbox
import plots
import pytest
import samples
import stories
import words
from stories import Wanted
from wishes import WISHES


def test_the_same_seed_tells_the_same_stories() -> None:
    """A story depends on the random state and on nothing else."""
    first, second = Random(11), Random(11)
    assert [stories.tell(first) for _ in range(50)] == [stories.tell(second) for _ in range(50)]


def test_stories_hardly_ever_repeat() -> None:
    """6,000 draws give more than 5,000 distinct stories."""
    rng = Random(1)
    assert len({stories.tell(rng) for _ in range(6_000)}) > 5_000


def test_stories_have_the_length_of_a_story() -> None:
    """Between 40 and 150 words, every field filled, every quotation closed."""
    rng = Random(2)
    for _ in range(2_000):
        story = stories.tell(rng)
        assert 40 <= len(story.split()) <= 150, story
        assert not re.search(r"[{}]|\s{2,}| [.,]", story), story
        assert story.count('"') % 2 == 0, story


def test_the_hero_keeps_name_kind_and_place() -> None:
    """What a request settles appears in the story."""
    rng = Random(3)
    for _ in range(300):
        wanted = Wanted(kind="llama", name="Beep", adj="shy", place="in a tall tower", helper_kind="owl")
        story = stories.tell(rng, wanted)
        assert "Beep" in story
        assert "llama" in story
        assert "shy" in story
        assert "in a tall tower" in story.lower()
        assert "owl" in story


def test_only_the_hero_has_a_name() -> None:
    """No second name is ever told, so that there is only one to copy."""
    rng = Random(8)
    for _ in range(500):
        story = stories.tell(rng, Wanted(kind="fox", name="Beep"))
        assert not set(re.findall(r"[A-Z]\w+", story)) & set(words.NAMES), story
        assert story.count("Beep") >= 2, story


def test_hero_and_helper_never_share_a_pronoun() -> None:
    """ "She" and "he" always tell the two apart, and a queen is never "he"."""
    rng = Random(4)
    for _ in range(500):
        hero = stories.choose_hero(rng, Wanted(kind=rng.choice([*words.KINDS, *words.RARE_KINDS])))
        helper = stories.choose_helper(rng, hero, Wanted())
        assert hero.she != helper.she
        assert hero.kind != helper.kind
        assert hero.she == "she" or hero.kind not in words.SHE_KINDS
        assert hero.she == "he" or hero.kind not in words.HE_KINDS


def test_every_kind_has_favourites_of_its_own() -> None:
    """No two kinds share their favourite plot, opening or name: different beginnings lead to different stories."""
    count = len(words.KINDS)
    assert len({stories.PLOTS[i * stories.PLOT_STRIDE % len(stories.PLOTS)] for i in range(count)}) == count
    assert len(plots.OPENINGS) >= count
    assert len(words.NAMES) >= count


@pytest.mark.parametrize("wish", WISHES)
def test_every_wish_has_two_ways_to_go(wish: str) -> None:
    """Trouble, help and ending of one way belong together by position."""
    _, troubles, helps, endings = WISHES[wish]
    assert len(troubles) == len(helps) == len(endings) == 2


def test_chat_samples_have_the_form_of_the_chat_template() -> None:
    """What training sees is what the template renders for the same messages."""
    rng = Random(5)
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment()
    template = environment.from_string(samples.CHAT_TEMPLATE)
    for _ in range(50):
        text = "".join(part.text for part in samples.chat(rng)).removesuffix(samples.END_OF_TEXT)
        found = re.findall(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>\n", text, re.DOTALL)
        messages = [{"role": role, "content": content} for role, content in found]
        assert template.render(messages=messages, add_generation_prompt=False) == text
        assert (
            template.render(messages=messages[:1], add_generation_prompt=True) + messages[1]["content"] in text
            or len(messages) > 2
        )


def test_only_the_models_own_words_are_learned() -> None:
    """Requests, system prompts and odd beginnings carry no loss."""
    rng = Random(6)
    for _ in range(200):
        parts = samples.chat(rng)
        learned = [part for part in parts if part.learned]
        assert learned
        assert all(not part.text.startswith(samples.START) for part in learned)
        assert learned[-1].text == samples.END
