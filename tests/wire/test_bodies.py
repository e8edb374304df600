"""Task, execute and announcement bodies: every problem at once, no value echoed, good bodies round-trip."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llorch.base.errors import InvalidRequest
from llorch.wire import announce, execute, tasks


def problems(body: dict[str, object]) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        tasks.parse_task(body)
    assert caught.value.details is not None
    return {p["field"]: p["message"] for p in caught.value.details["problems"]}


def test_all_problems_at_once() -> None:
    """Every wrong field of a body is named in one answer."""
    found = problems(
        {"prompt": 3, "max_tokens": 0, "temperature": 9, "priority": "urgent", "stop": [""], "placement": {"pin": 1}}
    )
    assert set(found) == {"prompt", "max_tokens", "temperature", "priority", "stop", "placement.pin"}


def test_did_you_mean() -> None:
    """An unknown field is refused with the field that was probably meant."""
    assert "did you mean 'max_tokens'" in problems({"prompt": "x", "max_token": 3})["max_token"]


def test_prompts_are_never_echoed() -> None:
    """No error text holds any part of a prompt."""
    secret = "sesame-open"
    with pytest.raises(InvalidRequest) as caught:
        tasks.parse_task({"prompt": secret, "messages": [{"role": "x", "content": secret}], "top_p": secret})
    assert secret not in str(caught.value.body())


@pytest.mark.parametrize(
    ("body", "delivery"),
    [
        ({}, tasks.Delivery.ACCEPTED),
        ({"stream": True}, tasks.Delivery.STREAM),
        ({"wait": True}, tasks.Delivery.WAIT),
        ({"stream": None, "wait": None}, tasks.Delivery.ACCEPTED),
    ],
)
def test_delivery(body: dict[str, object], delivery: tasks.Delivery) -> None:
    """stream and wait choose the delivery; null is absent."""
    assert tasks.parse_task({"prompt": "x", **body}).delivery is delivery


def test_booleans_are_not_numbers() -> None:
    """true is not 1."""
    assert "max_tokens" in problems({"prompt": "x", "max_tokens": True})


@pytest.mark.parametrize(
    "body", [{}, {"prompt": ""}, {"prompt": "a", "messages": []}, {"messages": []}, {"messages": [{"role": "user"}]}]
)
def test_exactly_one_prompt(body: dict[str, object]) -> None:
    """Exactly one non-empty prompt or conversation is needed."""
    assert problems(body)


@given(
    st.text(min_size=1),
    st.one_of(st.none(), st.integers(1, 1000)),
    st.lists(st.text(min_size=1, max_size=5), max_size=4),
    st.lists(st.integers(0, 10**5)),
)
def test_execute_round_trip(prompt: str, max_tokens: int | None, stop: list[str], ids: list[int]) -> None:
    """An execute request written to a body and read back is the same request."""
    task = tasks.parse_task({"prompt": prompt, "stop": stop, "seed": 2**64 - 1})
    resume = execute.Resume(tuple(ids), len(ids)) if ids else execute.Resume()
    request = execute.ExecuteRequest("job-1", prompt, (), max_tokens, task.sampling, resume)
    assert execute.parse_execute(request.to_body()) == request


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h:1",
        "http://",
        "http://u:p@h:1",
        "http://h:99999",
        "http://h:1/x",
        "http://h:1?x=1",
        "file:///etc",
        "h:1",
    ],
)
def test_worker_urls_are_plain(url: str) -> None:
    """A worker URL is scheme, host and port; anything else is refused."""
    body = {"worker_id": "w", "url": url, "model": "m", "slots_total": 1, "context_length": 8, "protocol": 1}
    with pytest.raises(InvalidRequest):
        announce.parse_announcement(body)


def test_announcement_round_trip() -> None:
    """A ready message written and read back is the same."""
    said = announce.Announcement("w-1", "http://127.0.0.1:8001", "demo", "cpu", 4, 2048, 10, 1, "0.1.0", {"a": 1})
    assert announce.parse_announcement(said.to_body()) == said
