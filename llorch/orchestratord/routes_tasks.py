"""`/v2/tasks`: submit in three deliveries, list, show, follow, cancel, explain."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from llorch.base import errors, ids
from llorch.base.errors import InferenceFailed, InvalidRequest
from llorch.base.ids import JobId, ModelId, SessionId, TenantId
from llorch.core.effects import Accept, Duplicate
from llorch.core.events import CancelRequested, ClientAttached, ClientDisconnected
from llorch.core.job import NO_WISHES, JobRecord, JobSpec, JobState, OnDisconnect, Priority, Wishes
from llorch.orchestratord import views
from llorch.orchestratord.following import follow, replay, text_of
from llorch.orchestratord.service import SERVICE, Found, Service
from llorch.web.answers import json_response
from llorch.web.bodies import read_object
from llorch.web.edge import CORRELATION
from llorch.wire import prefix, strict_json
from llorch.wire.tasks import ANYWHERE, Delivery, Placement, TaskRequest, parse_task

LIST_DEFAULT = 50
LIST_MAX = 500
QUEUED = "queued"


async def submit(request: web.Request) -> web.StreamResponse:
    """`POST /v2/tasks`."""
    service = request.app[SERVICE]
    tenant = await service.tenant(request)
    accept_stream = "text/event-stream" in request.headers.get("Accept", "")
    task = parse_task(await read_object(request), accept_stream=accept_stream)
    service.must_be_ready()
    service.refresh_catalog(None if task.model is None else ModelId(task.model))
    spec = job_spec(task, tenant, request[CORRELATION])
    if task.delivery is Delivery.ACCEPTED:
        return await _answer_accepted(service, await service.driver.submit(spec), tenant)
    with _carrying(service, spec.job_id):
        job_id = _job_of(await service.driver.submit(spec))
        if job_id != spec.job_id:  # the key was known: somebody reads the earlier job again
            service.driver.post(ClientAttached(job_id))
        with _carrying(service, job_id):
            found = await service.find(job_id, tenant)
            if task.delivery is Delivery.STREAM:
                return await follow(request, service, found, None)
            return await _wait(service, found, tenant)


@contextmanager
def _carrying(service: Service, job_id: JobId) -> Iterator[None]:
    """This request carries the answer of a job; the job hears of it when the last that does is dropped.

    A client that lost its connection and asks again with the same key may come before the loss is noticed.
    """
    service.carriers[job_id] += 1
    dropped = False
    try:
        yield
    except (asyncio.CancelledError, ConnectionError):
        dropped = True
        raise
    finally:
        service.carriers[job_id] -= 1
        if not service.carriers[job_id]:
            del service.carriers[job_id]
            if dropped:
                service.driver.post(ClientDisconnected(job_id))


def job_spec(task: TaskRequest, tenant: TenantId, correlation_id: str) -> JobSpec:
    """The brain's view of a checked task: the id and the seed are minted here."""
    seed = ids.new_seed() if task.sampling.seed is None else task.sampling.seed
    body = {**task.content_body(), "seed": seed}
    if task.max_tokens is not None:
        body["max_tokens"] = task.max_tokens
    attached = task.delivery is not Delivery.ACCEPTED
    return JobSpec(
        job_id=ids.new_job_id(),
        payload=strict_json.dump(body),
        prompt_sha256=_digest(task),
        prompt_bytes=task.prompt_bytes,
        seed=seed,
        messages=len(task.messages),
        prefixes=prefix.digests(task.prompt, task.messages),
        model=None if task.model is None else ModelId(task.model),
        max_tokens=task.max_tokens,
        priority=Priority(task.priority.value),
        tenant=tenant,
        session_id=None if task.session_id is None else SessionId(task.session_id),
        deadline_s=_seconds(task.deadline_ms),
        timeout_s=_seconds(task.timeout_ms),
        wishes=_wishes(task.placement),
        idempotency_key=task.idempotency_key,
        on_disconnect=OnDisconnect.CANCEL if attached and not task.detach else OnDisconnect.KEEP,
        attached=attached,
        correlation_id=correlation_id,
    )


def _wishes(placement: Placement) -> Wishes:
    if placement is ANYWHERE:
        return NO_WISHES
    return Wishes(
        placement.pin_pool,
        placement.pin_worker,
        placement.prefer_pools,
        placement.avoid_pools,
        placement.allow_fallback,
    )


def _digest(task: TaskRequest) -> str:
    if task.prompt is not None:
        return hashlib.sha256(task.prompt.encode("utf-8")).hexdigest()
    return hashlib.sha256(strict_json.dump([message.to_body() for message in task.messages])).hexdigest()


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _job_of(answer: Accept | Duplicate) -> JobId:
    return answer.of if isinstance(answer, Duplicate) else answer.job_id


async def _answer_accepted(service: Service, answer: Accept | Duplicate, tenant: TenantId) -> web.Response:
    if isinstance(answer, Accept):
        eta_ms = None if answer.eta_s is None else round(answer.eta_s * 1000)
        return json_response(_handle(answer.job_id, QUEUED, answer.queue_position, eta_ms), 202)
    found = await service.find(answer.of, tenant)
    shown = _shown(service, found.record)
    status = 200 if found.record.state.terminal else 202
    return json_response(_handle(answer.of, shown["status"], shown["queue_position"], shown["eta_ms"]), status)


def _shown(service: Service, record: JobRecord) -> dict[str, Any]:
    job_id = record.spec.job_id
    return views.job(record, service.brain.position(job_id), service.brain.loading(job_id))


def _handle(job_id: JobId, status: str, position: int | None, eta_ms: int | None) -> dict[str, object]:
    return {
        "job_id": job_id,
        "status": status,
        "queue_position": position,
        "eta_ms": eta_ms,
        "events_url": views.events_url(job_id),
    }


async def _wait(service: Service, found: Found, tenant: TenantId) -> web.Response:
    """One answer when the job has ended; a failed job is an error answer."""
    job_id = found.record.spec.job_id
    if found.stream is not None:
        await found.stream.finished.wait()
        found = await service.find(job_id, tenant)
    ending = found.record.ending
    if ending is not None and ending.state is JobState.FAILED:
        error = errors.by_code(
            ending.error_code or InferenceFailed.code, ending.error_message, retry_after_s=ending.retry_after_s
        )
        error.retriable = ending.retriable
        error.details = {"job_id": job_id}
        raise error
    return json_response({**views.job(found.record, None), "text": text_of(service, found)})


async def show(request: web.Request) -> web.Response:
    """`GET /v2/tasks/{id}`."""
    service = request.app[SERVICE]
    found = await _find(request, service)
    shown = _shown(service, found.record)
    return json_response({**shown, "text": text_of(service, found)})


async def listing(request: web.Request) -> web.Response:
    """`GET /v2/tasks?status=&limit=&cursor=`: newest first."""
    service = request.app[SERVICE]
    tenant = await service.tenant(request)
    status = request.query.get("status")
    if status is not None and status not in views.STATUSES:
        raise InvalidRequest(f"status must be one of {', '.join(views.STATUSES)}")
    states = [] if status is None else views.states_of(status)
    page = await service.store.jobs(
        states=states,
        tenant=tenant if service.access.isolated else None,
        before=_whole_number(request, "cursor", None),
        count=min(LIST_MAX, max(1, _whole_number(request, "limit", None) or LIST_DEFAULT)),
    )
    shown = [_shown(service, job.record) for job in page.jobs]
    # Queued and loading are one durable state: a page may hold fewer than were asked for.
    tasks = [job for job in shown if status in (None, job["status"])]
    return json_response({"tasks": tasks, "next": None if page.next is None else str(page.next)})


async def events(request: web.Request) -> web.StreamResponse:
    """`GET /v2/tasks/{id}/events`: from behind Last-Event-ID, exactly what is missing."""
    service = request.app[SERVICE]
    found = await _find(request, service)
    after = _whole_number(request, "last_event_id", request.headers.get("Last-Event-ID"))
    if found.stream is not None:
        service.driver.post(ClientAttached(found.record.spec.job_id))
        return await follow(request, service, found, after)
    return await replay(request, service, found, after)


async def cancel(request: web.Request) -> web.Response:
    """`POST /v2/tasks/{id}/cancel` and `DELETE /v2/tasks/{id}`: 202 while live, 200 when it has ended."""
    service = request.app[SERVICE]
    found = await _find(request, service)
    job_id = found.record.spec.job_id
    live = not found.record.state.terminal
    if live:
        await asyncio.shield(service.driver.tell(CancelRequested(job_id)))
    status = views.STATUS[found.record.state]
    return json_response({"job_id": job_id, "status": status, "cancel_requested": live}, 202 if live else 200)


async def explain(request: web.Request) -> web.Response:
    """`GET /v2/tasks/{id}/explain`."""
    service = request.app[SERVICE]
    found = await _find(request, service)
    lines = await service.store.decisions(found.record.spec.job_id)
    shown = _shown(service, found.record)
    return json_response({**shown, "decisions": [views.decision(line) for line in lines]})


async def _find(request: web.Request, service: Service) -> Found:
    tenant = await service.tenant(request)
    return await service.find(request.match_info["job_id"], tenant)


def _whole_number(request: web.Request, name: str, header: str | None) -> int | None:
    """A number from the query, else from a header. Raises InvalidRequest."""
    text = request.query.get(name, header)
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise InvalidRequest(f"{name} must be a whole number")
    return int(text)


ROUTES = [
    web.post("/v2/tasks", submit),
    web.get("/v2/tasks", listing, allow_head=False),
    web.get("/v2/tasks/{job_id}", show, allow_head=False),
    web.delete("/v2/tasks/{job_id}", cancel),
    web.get("/v2/tasks/{job_id}/events", events, allow_head=False),
    web.get("/v2/tasks/{job_id}/explain", explain, allow_head=False),
    web.post("/v2/tasks/{job_id}/cancel", cancel),
]
