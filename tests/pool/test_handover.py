"""The line that a remote caller hands over on stdin."""

from __future__ import annotations

import io
import json

import pytest

from llorch.base.errors import UsageError
from llorch.pool import handover
from llorch.pool.handover import Handover

FULL = {"worker_token": "s3cret", "callback_url": "http://10.0.0.5:8080", "bind": "10.0.0.7", "insecure_lan": False}


def read(value: object) -> Handover:
    return handover.read(io.BytesIO(json.dumps(value).encode() + b"\n"))


def test_everything_is_taken_over() -> None:
    """Token, callback and address arrive as they were sent."""
    assert read(FULL) == Handover("s3cret", "http://10.0.0.5:8080", "10.0.0.7", False)


def test_what_is_not_given_means_loopback_without_a_token() -> None:
    """Nulls and missing fields are the local spawn's values."""
    assert read({"worker_token": None, "callback_url": None, "bind": None}) == Handover()


@pytest.mark.parametrize(
    "wrong",
    [
        {"bind": "some.host"},
        {"callback_url": "file:///etc/passwd"},
        {"worker_token": "two words"},
        {"worker_tokn": "s3cret"},
        {"insecure_lan": "yes"},
        [],
    ],
)
def test_a_wrong_line_is_a_usage_error_that_keeps_the_secret(wrong: object) -> None:
    """Exit 2, naming the field and never its value."""
    with pytest.raises(UsageError) as caught:
        read(wrong)
    assert "s3cret" not in caught.value.message


def test_a_huge_line_is_refused() -> None:
    """The line has a bound."""
    with pytest.raises(UsageError, match="too long"):
        handover.read(io.BytesIO(b" " * (handover.SIZE_MAX + 2)))
