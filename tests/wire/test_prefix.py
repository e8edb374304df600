"""Digests of beginnings: equal beginnings have equal ones, others do not, and there are never many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llorch.wire import prefix
from llorch.wire.messages import Message
from llorch.wire.prefix import DIGEST, DIGESTS_MAX, STEP, digests, digests_of_body

LONG = "x" * STEP


def chat(*contents: str) -> list[Message]:
    """Turns of a user and an assistant."""
    return [Message(("user", "assistant")[n % 2], content) for n, content in enumerate(contents)]


@pytest.mark.parametrize(("size", "count"), [(1, 0), (511, 0), (512, 1), (1023, 1), (1024, 2), (32 * 512, 32)])
def test_one_for_each_whole_step_of_a_prompt(size: int, count: int) -> None:
    """512 characters, whatever their bytes; less has none."""
    for letter in "aé🦙":
        found = digests(letter * size, ())
        assert len(found) == count and all(DIGEST.fullmatch(digest) for digest in found)


def test_the_digests_are_what_they_were() -> None:
    """Two versions side by side must agree, or affinity is lost in silence; these values are part of the protocol."""
    assert digests("a" * 1024, ()) == ("28e94d70cfbcc20d", "d85abd834cae76c3")
    assert digests(None, chat(LONG, "hi")) == ("30588b4a3ac1fee1", "f53614bcfbcb4a11")


def test_a_conversation_has_one_for_each_message_from_its_first_512_characters_on() -> None:
    """A continued conversation begins with the digests it had."""
    first = digests(None, chat("short", LONG, "next"))
    assert len(first) == 2
    assert digests(None, chat("short", LONG, "next", "answer", "and then"))[:2] == first
    assert digests(None, chat("short", "words")) == ()
    assert digests(None, [Message("user", "ab" + LONG)]) != digests(None, [Message("assistant", "ab" + LONG)])
    assert digests(None, chat("a" + LONG, "b")) != digests(None, chat("a" + LONG + "b"))
    assert digests(None, [Message("user", LONG)]) != digests(LONG, ())


@given(st.integers(0, 9000), st.integers(0, 9000), st.integers(0, 9000))
def test_what_two_texts_share_is_named_in_both(common: int, one: int, other: int) -> None:
    """Of any number of shared ends at least two thirds are covered by a digest of both, however long they go on."""
    first, second = prefix._points(common + one), prefix._points(common + other)
    assert len(first) <= DIGESTS_MAX and len(second) <= DIGESTS_MAX
    shared = max((end for end in first & second if end <= common), default=0)
    assert shared >= common * 2 / 3
    assert one > 7 or common in first or common == 0


@given(st.text(max_size=2000), st.text(max_size=2000))
def test_equal_digests_mean_equal_beginnings(one: str, other: str) -> None:
    """A digest at one place is the same exactly when everything before it is."""
    for number, (left, right) in enumerate(zip(digests(one, ()), digests(other, ()), strict=False), 1):
        assert (left == right) == (one[: number * STEP] == other[: number * STEP])


def test_a_body_has_the_digests_of_its_content() -> None:
    """After a restart the stored body is enough."""
    turns = chat("system words" + LONG, "hi")
    assert digests_of_body({"prompt": LONG, "seed": 1}) == digests(LONG, ())
    assert digests_of_body({"messages": [turn.to_body() for turn in turns]}) == digests(None, turns)
