"""A worker's HTTP answer, read as what it means for the job."""

from __future__ import annotations

import pytest

from llorch.core.job import Failure, FailureKind
from llorch.core.refusals import failure_of


@pytest.mark.parametrize(
    ("statuses", "kind", "code"),
    [
        ((409, 429, 503), FailureKind.BUSY, "WORKER_UNAVAILABLE"),
        ((301, 307, 401, 403, 404, 405), FailureKind.REFUSED, "WORKER_UNAVAILABLE"),
        ((400, 413, 422), FailureKind.REJECTED, "INVALID_REQUEST"),
        ((504,), FailureKind.REJECTED, "TIMEOUT"),
        ((507,), FailureKind.FAILED, "INSUFFICIENT_MEMORY"),
        ((204, 500, 502), FailureKind.FAILED, "INFERENCE_FAILED"),
    ],
)
def test_a_status_has_one_meaning(statuses: tuple[int, ...], kind: FailureKind, code: str) -> None:
    """Busy is waited for, what is not ours is tried elsewhere, a bad request is bad everywhere; the rest failed."""
    for status in statuses:
        assert failure_of(status, None, "why", 2.0) == Failure(kind, code, "why", 2.0)


def test_the_worker_s_own_code_counts() -> None:
    """What it says of itself is more than what its status says; the kind stays the status's."""
    assert failure_of(503, "DRAINING", "", None) == Failure(FailureKind.BUSY, "DRAINING", "")
