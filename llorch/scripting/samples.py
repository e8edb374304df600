"""Questions to try a script with before it is trusted: by day and night, from interactive and batch jobs, of an empty
house and a full one. Made by the brain's own functions, so that they look as the real ones do."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from llorch.base.ids import DEFAULT_TENANT, JobId, ModelId, PoolId, SessionId, TenantId, WorkerId
from llorch.core.hooks import (
    LocalTime,
    evictable_argument,
    failure_argument,
    queue_argument,
    task_argument,
    workers_argument,
)
from llorch.core.job import Failure, FailureKind, Priority
from llorch.core.policy import Candidate, Evictable, Hook, QueueView, TaskView

Arguments = dict[str, object]
_MONDAY = 1_750_032_000.0  # 2025-06-16 00:00 UTC
_HOUR_S, _DAY_S = 3600, 86_400
_MOMENTS = {"at night": _MONDAY + 3 * _HOUR_S, "on Saturday noon": _MONDAY + 5 * _DAY_S + 12 * _HOUR_S}


def samples(hook: Hook) -> Iterator[tuple[str, Arguments]]:
    """(what it is, arguments by name) for one hook."""
    if hook is Hook.EVICT:
        for count in (0, 1, 8):
            yield f"{count} idle workers", {"workers": _evictable(count), "need": 8 << 30}
        return
    for words, task in _tasks():
        for more_words, more in _rest(hook):
            yield ", ".join(filter(None, (words, more_words))), {"task": task, **more}


def _tasks() -> Iterator[tuple[str, Arguments]]:
    for priority, (when, now) in product(Priority, _MOMENTS.items()):
        for is_bare in (False, True):
            words = f"{priority.value} job {when}" + (" without model, session or limit" if is_bare else "")
            yield words, task_argument(_task(priority, is_bare=is_bare), LocalTime.at(now, 0), 90.0 if is_bare else 0.0)


def _task(priority: Priority, *, is_bare: bool) -> TaskView:
    return TaskView(
        JobId("job-1" if is_bare else "job-2"),
        None if is_bare else ModelId("qwen3-8b"),
        priority,
        DEFAULT_TENANT if is_bare else TenantId("alice"),
        None if is_bare else SessionId("session-1"),
        12 if is_bare else 20_000,
        "0" * 64,
        None if is_bare else 512,
    )


def _rest(hook: Hook) -> Iterator[tuple[str, Arguments]]:
    """What a hook gets beside the task."""
    match hook:
        case Hook.ADMIT | Hook.PRIORITIZE:
            yield "in an empty house", {"ctx": _context(0)}
            yield "in a full house", {"ctx": _context(100)}
        case Hook.CHOOSE_WORKER:
            for count in (1, 3, 8):
                yield f"{count} workers", {"workers": _workers(count)}
        case Hook.ON_QUEUE_FULL:
            yield "no batch job waits", {"queue": queue_argument(QueueView(100, 100, None))}
            yield "a batch job waits", {"queue": queue_argument(QueueView(100, 100, JobId("job-0")))}
        case Hook.RETRY:
            for kind, failures in product(FailureKind, (1, 3)):
                yield f"{kind.value}, failure {failures}", {"failure": failure_argument(Failure(kind)), "n": failures}
        case _:
            yield "", {}


def _context(depth: int) -> Arguments:
    tenant = {"running": min(depth, 4), "waiting": depth, "tokens_today": depth * 10_000}
    return {"queue_depth": depth, "running": min(depth, 8), "workers": 0 if depth == 0 else 4, "tenant": tenant}


def _workers(count: int) -> list[dict[str, object]]:
    return workers_argument([_worker(number) for number in range(count)])


def _evictable(count: int) -> list[dict[str, object]]:
    return evictable_argument(
        [
            Evictable(
                worker_id=WorkerId(f"worker-cpu-{number}"),
                pool=PoolId("local" if number % 2 == 0 else "big-box"),
                model=ModelId("qwen3-8b"),
                memory_bytes=(1 + number) << 30,
                idle_s=100.0 * (count - number),
                resident_s=1000.0,
            )
            for number in range(count)
        ]
    )


def _worker(number: int) -> Candidate:
    return Candidate(
        worker_id=WorkerId(f"worker-cpu-{number}"),
        pool=PoolId("localhost" if number % 2 == 0 else "big-box"),
        model=ModelId("qwen3-8b"),
        slots_free=1 + number % 4,
        load=number / 8,
        tokens_per_s=20.0 * number,
        preferred=number == 1,
        affine=number == 2,
        prefix_parts=number,
        second_choice=number == 7,
        labels=("gpu",) if number % 2 else (),
    )
