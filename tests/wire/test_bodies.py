"""Task, execute and announcement bodies: every problem at once, no value echoed, good bodies round-trip."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llorch.base.errors import InvalidRequest
from llorch.wire import announce, execute, strict_json, tasks


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


@given(
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.dictionaries(st.integers(0, 200_000), st.floats(-100, 100), max_size=6),
    st.one_of(st.none(), st.integers(0, 20)),
)
def test_sampling_fields_round_trip(
    presence: float, frequency: float, bias: dict[int, float], logprobs: int | None
) -> None:
    """Read from a task, forwarded, read by a worker: the same; biases come sorted by id, keys may be numbers."""
    fields = {"presence_penalty": presence, "frequency_penalty": frequency, "logprobs": logprobs}
    task = tasks.parse_task({"prompt": "x", "logit_bias": bias, **fields})
    sampling = task.sampling
    assert sampling.logit_bias == tuple(sorted(bias.items())) and sampling.logprobs == logprobs
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (presence, frequency)
    body = strict_json.parse_object(strict_json.dump({"job_id": "j", **task.content_body()}))
    assert execute.parse_execute(body).sampling == sampling


def test_fields_that_are_off_are_not_sent() -> None:
    """A worker that does not know the newer fields takes every job that does not use them."""
    body = tasks.parse_task({"prompt": "x", "presence_penalty": 0, "logit_bias": {}}).content_body()
    assert not {"presence_penalty", "frequency_penalty", "logit_bias", "logprobs"} & set(body)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("presence_penalty", 2.1),
        ("frequency_penalty", -3),
        ("frequency_penalty", "1"),
        ("logprobs", 21),
        ("logprobs", -1),
        ("logprobs", True),
        ("logit_bias", [[1, 2]]),
        ("logit_bias", {"the": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"01": 1}),
        ("logit_bias", {"1": 1, 1: 2}),
        ("logit_bias", {"١": 1}),
        ("logit_bias", {"9999999999": 1}),
        ("logit_bias", {"1": 101}),
        ("logit_bias", {"1": True}),
        ("logit_bias", {"1": None}),
        ("logit_bias", {"1": float("nan")}),
        ("logit_bias", {str(n): 1 for n in range(1025)}),
    ],
)
def test_sampling_out_of_range_is_one_problem(field: str, value: object) -> None:
    """The field is named; of a bias neither key nor value is repeated."""
    found = problems({"prompt": "x", field: value})
    assert list(found) == [field] and "the" not in found[field].split()


def test_as_many_biases_as_allowed() -> None:
    """1024 are taken."""
    bias = {str(n): 100 for n in range(1024)}
    assert len(tasks.parse_task({"prompt": "x", "logit_bias": bias}).sampling.logit_bias) == 1024


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


def test_heartbeat_round_trip() -> None:
    """A heartbeat written and read back is the same; an empty one renews the lease, too."""
    said = announce.Heartbeat(1, 2, 3.5, "draining", 9, ("j",), ("0123456789abcdef",))
    assert announce.parse_heartbeat(said.to_body()) == said
    assert announce.parse_heartbeat({}) == announce.Heartbeat(0, 1, 0.0, "ready", 0, ())


@pytest.mark.parametrize("prefixes", ["x", {}, [3], ["0123"], ["0123456789ABCDEF"], ["0123456789abcdef"] * 65])
def test_malformed_prefixes_are_as_if_not_said(prefixes: object) -> None:
    """They are a hint: the lease is renewed all the same."""
    beat = announce.parse_heartbeat({"slots_busy": 1, "prefixes": prefixes})
    assert beat.slots_busy == 1 and beat.prefixes == ()
