"""Every error a user, a peer or an operator can meet, split by blame; codes are the stable ones of `spec/http.md`.

An `LlorchError` is the world's fault; our own bugs are assertions. The docstring of a class is its default message.
"""

from __future__ import annotations

import re
from typing import Any

RETRY_AFTER_MAX_S = 120


class LlorchError(Exception):
    """Something went wrong."""

    code = "INTERNAL"
    status = 500
    exit_code = 1
    retriable = False

    def __init__(
        self,
        message: str | None = None,
        *,
        details: dict[str, Any] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.message = message or (type(self).__doc__ or "Something went wrong.").splitlines()[0].rstrip(".")
        self.details = details
        self.retry_after_s = None if retry_after_s is None else min(retry_after_s, RETRY_AFTER_MAX_S)
        super().__init__(self.message)

    def body(self, correlation_id: str | None = None) -> dict[str, Any]:
        """The JSON error body of requirements section 5."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.details is not None:
            error["details"] = self.details
        error["retriable"] = self.retriable
        error["correlation_id"] = correlation_id
        return {"error": error}


class ClientError(LlorchError):
    """The request cannot be served as it is."""

    status = 400


class InvalidRequest(ClientError):
    """The request is not valid."""

    code = "INVALID_REQUEST"


class ContextLengthExceeded(ClientError):
    """The prompt and max_tokens do not fit the model's context."""

    code = "CONTEXT_LENGTH_EXCEEDED"


class DeadlineUnmet(ClientError):
    """The deadline cannot be met any more."""

    code = "DEADLINE_UNMET"


class Unauthorized(ClientError):
    """A valid key is needed: send it as 'Authorization: Bearer KEY'."""

    code = "UNAUTHORIZED"
    status = 401


class Forbidden(ClientError):
    """This orchestratord does not allow that."""

    code = "FORBIDDEN"
    status = 403


class ModelNotFound(ClientError):
    """No such model."""

    code = "MODEL_NOT_FOUND"
    status = 404
    exit_code = 4


class JobNotFound(ClientError):
    """No such job."""

    code = "JOB_NOT_FOUND"
    status = 404
    exit_code = 4


class SessionNotFound(ClientError):
    """No such session; one that was unused for its ttl_s is forgotten."""

    code = "SESSION_NOT_FOUND"
    status = 404
    exit_code = 4


class OutputExpired(ClientError):
    """The output of this job is not kept any more; its record is at GET /v2/tasks/{id}."""

    code = "OUTPUT_EXPIRED"
    status = 410
    exit_code = 4


class WorkerNotFound(ClientError):
    """No such worker."""

    code = "WORKER_NOT_FOUND"
    status = 404
    exit_code = 4


class PoolNotFound(ClientError):
    """No such pool."""

    code = "POOL_NOT_FOUND"
    status = 404
    exit_code = 4


class RouteNotFound(ClientError):
    """No such path."""

    code = "NOT_FOUND"
    status = 404
    exit_code = 4


class MethodNotAllowed(ClientError):
    """This path does not take that method."""

    code = "METHOD_NOT_ALLOWED"
    status = 405


class DuplicateJob(ClientError):
    """A job with this id is running already."""

    code = "DUPLICATE_JOB"
    status = 409


class WorkerAlreadyRegistered(ClientError):
    """Another live worker uses this id."""

    code = "WORKER_ALREADY_REGISTERED"
    status = 409


class BodyTooLarge(ClientError):
    """The request body is too large."""

    code = "BODY_TOO_LARGE"
    status = 413


class UnsupportedMedia(ClientError):
    """Compressed request bodies are not accepted."""

    code = "UNSUPPORTED_MEDIA_TYPE"
    status = 415


class Throttled(ClientError):
    """Try again later."""

    status = 429
    exit_code = 75
    retriable = True


class QueueFull(Throttled):
    """The queue is full."""

    code = "QUEUE_FULL"


class QuotaExceeded(Throttled):
    """The quota is used up."""

    code = "QUOTA_EXCEEDED"


class RateLimited(Throttled):
    """Too many requests."""

    code = "RATE_LIMITED"


class AdmissionRejected(Throttled):
    """The admission policy rejected the job."""

    code = "ADMISSION_REJECTED"


class Unavailable(LlorchError):
    """The service cannot answer now."""

    status = 503
    exit_code = 75
    retriable = True


class PoolUnavailable(Unavailable):
    """The pool is not available."""

    code = "POOL_UNAVAILABLE"


class WorkerUnavailable(Unavailable):
    """No worker is available."""

    code = "WORKER_UNAVAILABLE"


class Draining(Unavailable):
    """The service is draining and takes no new work."""

    code = "DRAINING"


class StorageUnavailable(Unavailable):
    """The job cannot be stored now; is the disk of orchestratord's state full?"""

    code = "STORAGE_UNAVAILABLE"


class TimedOut(LlorchError):
    """The job took too long."""

    code = "TIMEOUT"
    status = 504


class QueueTimeout(LlorchError):
    """The job waited too long in the queue."""

    code = "QUEUE_TIMEOUT"
    status = 504
    retriable = True


class InsufficientMemory(LlorchError):
    """Not enough memory."""

    code = "INSUFFICIENT_MEMORY"
    status = 507


class WorkerError(LlorchError):
    """A worker failed; the job may be retried elsewhere."""

    status = 502
    retriable = True


class WorkerLost(WorkerError):
    """The worker was lost and no other could continue."""

    code = "WORKER_LOST"


class InferenceFailed(WorkerError):
    """The model failed on this job."""

    code = "INFERENCE_FAILED"
    retriable = False


class HostError(LlorchError):
    """This machine cannot do that."""

    code = "HOST_ERROR"


class ConfigError(HostError):
    """The configuration is not valid."""

    code = "CONFIG_ERROR"
    exit_code = 2


class InvalidModel(HostError):
    """The model directory cannot be used."""

    code = "INVALID_MODEL"


class UsageError(HostError):
    """The command line is not valid."""

    code = "USAGE"
    exit_code = 2


class NotFound(HostError):
    """Not found."""

    code = "NOT_FOUND"
    status = 404
    exit_code = 4


class Unreachable(HostError):
    """The service does not answer."""

    code = "UNREACHABLE"
    exit_code = 5
    retriable = True


class TryLater(HostError):
    """Busy: try again later."""

    code = "TRY_LATER"
    exit_code = 75
    retriable = True


class SshFailed(HostError):
    """SSH could not connect."""

    code = "SSH_FAILED"
    exit_code = 255


def _all_subclasses(cls: type[LlorchError]) -> list[type[LlorchError]]:
    found = []
    for sub in cls.__subclasses__():
        found += [sub, *_all_subclasses(sub)]
    return found


def by_code(code: str, message: str | None = None, *, retry_after_s: float | None = None) -> LlorchError:
    """The error a peer reported as `code`; an unknown code gives a plain LlorchError that keeps it."""
    for cls in _all_subclasses(LlorchError):
        if cls.__dict__.get("code") == code:
            return cls(message, retry_after_s=retry_after_s)
    error = LlorchError(message, retry_after_s=retry_after_s)
    error.code = code if re.fullmatch(r"[A-Z_]{1,64}", code) else "INTERNAL"
    return error
