"""What passes between the brain and a policy script: arguments as plain data, and answers read with suspicion.

Nothing here runs a script. An answer is checked against its own question, here and at once; whether it still makes
sense is looked at by the brain when it arrives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from llorch.base.errors import RETRY_AFTER_MAX_S
from llorch.base.ids import WorkerId
from llorch.core.job import Failure, Timeouts
from llorch.core.policy import Candidate, Evictable, Hook, QueueView, Rejection, TaskView, WhenFull, jitter

HANDICAP_MAX_S = 30 * 86_400.0
RETRY_DELAY_MAX_S = 600.0
MESSAGE_MAX = 200

TIMEOUT_MAX_S = 30 * 86_400.0
UNLIMITED = ("queue_s", "total_s")


@dataclass(frozen=True, slots=True)
class ChangedTimeouts:
    """The limits that a script sets, by the names of the fields of Timeouts."""

    changes: tuple[tuple[str, float | None], ...] = ()

    def over(self, builtin: Timeouts) -> Timeouts:
        """The built-in limits with these in place of some."""
        changes: dict[str, Any] = dict(self.changes)
        return replace(builtin, **changes)


# admit · prioritize, retry · choose_worker (None: none of these, wait) · on_queue_full · evict · timeout
Answer = Rejection | float | WorkerId | WhenFull | tuple[WorkerId, ...] | ChangedTimeouts | None


class PolicyFault(ValueError):
    """A script's answer that cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class LocalTime:
    """A moment as scripts are told it: `now` in Unix seconds, and the wall clock of this host. Monday is 0."""

    now: float
    weekday: int
    hour: int
    minute: int

    @staticmethod
    def at(now: float, utc_offset_s: int) -> LocalTime:
        days, seconds = divmod(int(now) + utc_offset_s, 86_400)
        return LocalTime(now, (days + 3) % 7, seconds // 3600, seconds // 60 % 60)


def task_argument(task: TaskView, time: LocalTime, waited_s: float) -> dict[str, object]:
    """`task` of every hook but `evict`. `random` is 0..1, ever the same for the same job."""
    return {
        "job_id": task.job_id,
        "model": task.model,
        "priority": task.priority.value,
        "tenant": task.tenant,
        "session_id": task.session_id,
        "prompt_bytes": task.prompt_bytes,
        "prompt_sha256": task.prompt_sha256,
        "max_tokens": task.max_tokens,
        "waited_s": waited_s,
        "random": jitter(task.job_id, 0),
        **plain(time),
    }


def plain(value: Any) -> dict[str, object]:
    """A flat dataclass of plain values as data."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def workers_argument(candidates: list[Candidate]) -> list[dict[str, object]]:
    """`workers`: best first, as the built-in policy ranks them. Its load is called `busy`: Starlark reserves `load`."""
    return [
        {"busy" if name == "load" else name: value for name, value in plain(candidate).items()}
        for candidate in candidates
    ]


def evictable_argument(candidates: list[Evictable]) -> list[dict[str, object]]:
    """`workers` of `evict`: idle ones that may be stopped, the least recently used first."""
    return [plain(candidate) for candidate in candidates]


def queue_argument(queue: QueueView) -> dict[str, object]:
    return plain(queue)


def failure_argument(failure: Failure) -> dict[str, object]:
    return {"kind": failure.kind.value, "code": failure.code, "message": failure.message[:MESSAGE_MAX]}


def read_answer(hook: Hook, arguments: Mapping[str, Any], raw: object) -> Answer:
    """The script's return value as a verdict. Raises PolicyFault."""
    match hook:
        case Hook.ADMIT:
            return _read_admit(raw)
        case Hook.PRIORITIZE:
            return _number(raw, -HANDICAP_MAX_S, HANDICAP_MAX_S)
        case Hook.CHOOSE_WORKER:
            return None if raw is None else _offered(raw, arguments["workers"])
        case Hook.ON_QUEUE_FULL:
            return _read_when_full(raw)
        case Hook.EVICT:
            return _read_evict(raw, arguments["workers"])
        case Hook.RETRY:
            return None if raw is None or raw is False else _number(raw, 0.0, RETRY_DELAY_MAX_S)
        case Hook.TIMEOUT:
            return _read_timeout(raw)


def _read_admit(raw: object) -> Rejection | None:
    """True or None: let it in. False, a reason, or {"reason": …, "retry_after_s": …}: do not."""
    if raw is None or raw is True:
        return None
    if raw is False:
        return Rejection()
    if isinstance(raw, str):
        return Rejection(raw[:MESSAGE_MAX] or Rejection().message)
    if isinstance(raw, dict) and set(raw) <= {"reason", "retry_after_s"} and isinstance(raw.get("reason", ""), str):
        wait = raw.get("retry_after_s")
        wait_s = None if wait is None else _number(wait, 0.0, float(RETRY_AFTER_MAX_S))
        return Rejection(raw.get("reason", "")[:MESSAGE_MAX] or Rejection().message, wait_s)
    raise PolicyFault(f"admit must return True, False, a reason, or a dict of reason, retry_after_s; not {raw!r:.60}")


def _number(raw: object, low: float, high: float) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not low <= raw <= high:
        raise PolicyFault(f"expected a number from {low:g} to {high:g}, not {raw!r:.60}")
    return float(raw)


def _offered(raw: object, workers: list[dict[str, object]]) -> WorkerId:
    """A worker's id, or the worker as it was offered."""
    name = raw.get("worker_id") if isinstance(raw, dict) else raw
    if isinstance(name, str) and any(worker["worker_id"] == name for worker in workers):
        return WorkerId(name)
    raise PolicyFault(f"{name!r:.80} is not one of the workers offered")


def _read_when_full(raw: object) -> WhenFull:
    try:
        return WhenFull(raw)
    except ValueError:
        choices = " or ".join(f'"{choice.value}"' for choice in WhenFull)
        raise PolicyFault(f"on_queue_full must return {choices}, not {raw!r:.60}") from None


def _read_evict(raw: object, workers: list[dict[str, object]]) -> tuple[WorkerId, ...]:
    if not isinstance(raw, list | tuple):
        raise PolicyFault(f"evict must return a list of workers, not {raw!r:.60}")
    return tuple(dict.fromkeys(_offered(item, workers) for item in raw))


def _read_timeout(raw: object) -> ChangedTimeouts:
    """A dict with any of the fields of Timeouts; what it leaves out stays as it is by the settings."""
    if raw is None:
        return ChangedTimeouts()
    known = [field.name for field in fields(Timeouts)]
    if not isinstance(raw, dict) or not set(raw) <= set(known):
        raise PolicyFault(f"timeout must return a dict with some of {', '.join(known)}, not {raw!r:.60}")
    for name, value in raw.items():
        if value is None and name in UNLIMITED:
            continue
        _number(value, 0.0, TIMEOUT_MAX_S)
    return ChangedTimeouts(tuple((name, None if value is None else float(value)) for name, value in raw.items()))
