"""The body of a session: what the SDK sends is what the server reads."""

from __future__ import annotations

import pytest

from llorch.base.errors import InvalidRequest
from llorch.wire.sessions import SessionRequest, parse_session


@pytest.mark.parametrize("request_", [SessionRequest(), SessionRequest("chat:1", 60.0, 1000, 2.5)], ids=str)
def test_what_is_sent_is_what_is_read(request_: SessionRequest) -> None:
    """Through the body and back."""
    assert parse_session(request_.to_body()) == request_


def test_all_problems_come_together() -> None:
    """One error names every bad field, never its value."""
    with pytest.raises(InvalidRequest) as error:
        parse_session({"session_id": "se cret", "ttl_s": 10**9, "tokens_max": "many", "time_max": 1})
    problems = error.value.details["problems"] if error.value.details else []
    assert [problem["field"] for problem in problems] == ["time_max", "session_id", "ttl_s", "tokens_max"]
    assert "time_max_s" in problems[0]["message"] and "cret" not in str(problems)
