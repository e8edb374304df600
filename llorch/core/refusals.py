"""What a worker's refusal of an attempt means: come back, go elsewhere, or the same everywhere. Statuses are HTTP's."""

from __future__ import annotations

from llorch.base import errors
from llorch.core.job import Failure, FailureKind

# Not a worker of ours, or not one that lets us in: another may. Redirects are not followed and count as such, too.
NOT_OURS = frozenset({401, 403, 404, 405, *range(300, 400)})
BUSY = frozenset({409, 429, 503})
OUT_OF_TIME = 504


def failure_of(status: int, code: str | None, message: str, retry_after_s: float | None) -> Failure:
    """The failure behind an answer other than 200; `code` is the worker's own, where it gave one."""
    kind = _kind(status)
    return Failure(kind, code or _code(status, kind), message, retry_after_s)


def _kind(status: int) -> FailureKind:
    if status in BUSY:
        return FailureKind.BUSY
    if status in NOT_OURS:
        return FailureKind.REFUSED
    if 400 <= status < 500 or status == OUT_OF_TIME:
        return FailureKind.REJECTED
    return FailureKind.FAILED


def _code(status: int, kind: FailureKind) -> str:
    if status == OUT_OF_TIME:
        return errors.TimedOut.code
    if status == errors.InsufficientMemory.status:
        return errors.InsufficientMemory.code
    if kind is FailureKind.REJECTED:
        return errors.InvalidRequest.code
    return errors.InferenceFailed.code if kind is FailureKind.FAILED else errors.WorkerUnavailable.code
