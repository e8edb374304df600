"""Errors: one code, one class, one body."""

from __future__ import annotations

from llorch.base import errors


def test_codes_find_their_class() -> None:
    """A code that a peer sent becomes the class that owns it; an unknown one is kept."""
    assert isinstance(errors.by_code("QUEUE_FULL", "x"), errors.QueueFull)
    assert errors.by_code("SOMETHING_NEW", "x").code == "SOMETHING_NEW"
    assert errors.by_code("<script>", "x").code == "INTERNAL"


def test_body_shape() -> None:
    """The body has the contract's keys and the docstring is the default message."""
    body = errors.JobNotFound().body("c-1")
    assert body == {
        "error": {"code": "JOB_NOT_FOUND", "message": "No such job", "retriable": False, "correlation_id": "c-1"}
    }


def test_retry_after_is_bounded() -> None:
    """Nobody is told to wait longer than 120 s: OpenAI's client gives up beyond."""
    assert errors.QueueFull(retry_after_s=10_000).retry_after_s == 120
