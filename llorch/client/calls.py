"""Requests as values: what to send for each operation. Pure; the transports only carry them.

The answer side is `answers`; both clients speak through these two, so that they cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from llorch.client.request import InferenceRequest
from llorch.wire import strict_json
from llorch.wire.execute import ExecuteRequest
from llorch.wire.sessions import SessionRequest


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request: `path` is below the endpoint's own path."""

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def _post(path: str, body: Mapping[str, Any] | None = None) -> Call:
    if body is None:
        return Call("POST", path, b"")
    return Call("POST", path, strict_json.dump(body), {"Content-Type": "application/json"})


def _task(job_id: str, tail: str = "") -> str:
    return f"/v2/tasks/{quote(job_id, safe='')}{tail}"


def submit(request: InferenceRequest) -> Call:
    """`POST /v2/tasks`, answered by 202."""
    return _post("/v2/tasks", request.to_body())


def events(job_id: str, last_event_id: int | None) -> Call:
    """`GET /v2/tasks/{id}/events`, from behind `last_event_id`."""
    headers = {"Accept": "text/event-stream"}
    if last_event_id is not None:
        headers["Last-Event-ID"] = str(last_event_id)
    return Call("GET", _task(job_id, "/events"), None, headers)


def cancel(job_id: str) -> Call:
    """`POST /v2/tasks/{id}/cancel`: idempotent."""
    return _post(_task(job_id, "/cancel"))


def job(job_id: str) -> Call:
    """`GET /v2/tasks/{id}`."""
    return Call("GET", _task(job_id))


def jobs(status: str | None, limit: int | None, cursor: str | None) -> Call:
    """`GET /v2/tasks`: newest first; `cursor` is the `next` of the page before."""
    query = {"status": status, "limit": limit, "cursor": cursor}
    given = {name: value for name, value in query.items() if value is not None}
    return Call("GET", "/v2/tasks" + ("?" + urlencode(given) if given else ""))


def policy() -> Call:
    """`GET /v2/policy`."""
    return Call("GET", "/v2/policy")


def deploy_policy(source: str) -> Call:
    """`POST /v2/policy/deploy`."""
    return _post("/v2/policy/deploy", {"source": source})


def remove_policy() -> Call:
    """`DELETE /v2/policy`."""
    return Call("DELETE", "/v2/policy")


def explain(job_id: str) -> Call:
    """`GET /v2/tasks/{id}/explain`."""
    return Call("GET", _task(job_id, "/explain"))


def _session(session_id: str) -> str:
    return f"/v2/sessions/{quote(session_id, safe='')}"


def open_session(wanted: SessionRequest) -> Call:
    """`POST /v2/sessions`."""
    return _post("/v2/sessions", wanted.to_body())


def sessions() -> Call:
    """`GET /v2/sessions`."""
    return Call("GET", "/v2/sessions")


def session(session_id: str) -> Call:
    """`GET /v2/sessions/{id}`."""
    return Call("GET", _session(session_id))


def close_session(session_id: str) -> Call:
    """`DELETE /v2/sessions/{id}`."""
    return Call("DELETE", _session(session_id))


def usage(days: int | None) -> Call:
    """`GET /v2/usage`: today and `days` - 1 before."""
    return Call("GET", "/v2/usage" + ("" if days is None else f"?days={days}"))


def health() -> Call:
    """`GET /health`: of orchestratord and of a worker alike."""
    return Call("GET", "/health")


def workers() -> Call:
    """`GET /v2/workers`."""
    return Call("GET", "/v2/workers")


def add_worker(url: str, pool: str | None) -> Call:
    """`POST /v2/workers`; with `pool` the URL is one of that pool's loopback, behind its tunnel."""
    return _post("/v2/workers", {"url": url} if pool is None else {"url": url, "pool": pool})


def register_pool(host: str) -> Call:
    """`POST /v2/pools`: a host whose workers may be used."""
    return _post("/v2/pools", {"id": host})


def models() -> Call:
    """`GET /v2/models`."""
    return Call("GET", "/v2/models")


def pools(max_age_s: int | None = None) -> Call:
    """`GET /v2/pools`; pools whose facts are older than `max_age_s` are asked first."""
    return Call("GET", "/v2/pools" if max_age_s is None else f"/v2/pools?max_age_s={max_age_s}")


def worker_execute(request: ExecuteRequest) -> Call:
    """`POST /execute` of a worker: the answer is the stream itself."""
    call = _post("/execute", request.to_body())
    return Call(call.method, call.path, call.body, {**call.headers, "Accept": "text/event-stream"})


def worker_cancel(job_id: str) -> Call:
    """`POST /cancel` of a worker."""
    return _post("/cancel", {"job_id": job_id})


def worker_drain() -> Call:
    """`POST /drain` of a worker."""
    return _post("/drain", {})
