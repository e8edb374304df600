"""FLEET.toml: a described fleet and who comes to it; arrivals are drawn from a seed, the same for the same file.

The same tables as one JSON object in a file named `*.json` are a fleet, too.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from llorch.base.config import FILE_SIZE_MAX, did_you_mean
from llorch.base.errors import ConfigError, InvalidRequest
from llorch.base.ids import MODEL_ID, SESSION_ID, JobId, ModelId, PoolId, SessionId, TenantId, WorkerId
from llorch.core.job import JobSpec, Priority
from llorch.core.staging import Arrival, Speed, StagedWorker
from llorch.core.worker import WorkerSpec
from llorch.wire import strict_json

ARRIVALS_MAX = 1_000_000
COUNT_MAX = 10_000
BYTES_A_TOKEN = 4
# A client that sets no max_tokens of its own allows for answers longer than usual.
MAX_TOKENS_OVER_MEAN = 4

EXAMPLE = """\
# A fleet, and who comes to it: llorch policy simulate --fleet FLEET.toml
[[workers]]
pool = "attic"
model = "demo"
count = 2               # so many workers like this
slots = 4               # sequences at once, each
context = 8192          # tokens
tokens_per_s = 30       # of one sequence alone
total_tokens_per_s = 80 # of all together; without it nobody slows another down
ttft_ms = 300           # time to first token
# prefill_tokens_per_s = 2000   # adds the time of the prompt to ttft_ms

[[arrivals]]
tenant = "alice"
priority = "interactive"
model = "demo"
per_minute = 20         # on average; the times are drawn
prompt_tokens = 400
tokens_out = 150        # on average; the lengths are drawn
sessions = 5            # the jobs are turns of so many sessions; 0: of none

[[arrivals]]
tenant = "bob"
priority = "batch"
model = "demo"
per_minute = 30
prompt_tokens = 1000
tokens_out = 200
"""


@dataclass(frozen=True, slots=True)
class _Key:
    """A key of a table: how its value is read, and what stands for it when it is not there (REQUIRED: nothing)."""

    read: Callable[[object], Any]
    default: Any


REQUIRED = object()


@dataclass(frozen=True, slots=True)
class Stream:
    """Jobs of one kind that keep coming."""

    tenant: TenantId
    priority: Priority
    model: ModelId
    per_minute: float
    prompt_tokens: int
    tokens_out: float
    sessions: int
    max_tokens: int | None


@dataclass(frozen=True, slots=True)
class Fleet:
    """What the file describes."""

    workers: tuple[StagedWorker, ...]
    streams: tuple[Stream, ...]

    def arrivals(self, seed: int, begin: float, duration_s: float) -> tuple[Arrival, ...]:
        """Poisson arrivals within the duration, in order. Raises ConfigError when they would be too many."""
        expected = sum(stream.per_minute for stream in self.streams) * duration_s / 60
        if expected > ARRIVALS_MAX:
            raise ConfigError(f"that makes about {expected:.0f} jobs; at most {ARRIVALS_MAX} can be simulated")
        drawn = [
            arrival
            for number, stream in enumerate(self.streams)
            for arrival in _draw(stream, number, Random(f"{seed}/{number}"), begin, duration_s)
        ]
        return tuple(sorted(drawn, key=lambda arrival: (arrival.at, arrival.spec.job_id)))


def read_fleet(path: Path) -> Fleet:
    """Raises ConfigError with one clear line."""
    try:
        with open(path, "rb") as file:
            text = file.read(FILE_SIZE_MAX).decode("utf-8")
        data = strict_json.parse_object(text.encode()) if path.suffix == ".json" else tomllib.loads(text)
    except InvalidRequest as error:
        raise ConfigError(f"fleet file {path}: {error.message}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ConfigError(f"fleet file {path}: {reason}") from None
    return parse_fleet(data, f"fleet file {path}")


def parse_fleet(data: Mapping[str, Any], where: str) -> Fleet:
    """The fleet of a file's content. Raises ConfigError; `where` begins its message."""
    for key in data:
        if key not in _TABLES:
            raise ConfigError(f"{where}: unknown key '{key}'{did_you_mean(key, list(_TABLES))}")
    rows = {name: _rows(data, name, where) for name in _TABLES}
    count = sum(row["count"] for row in rows["workers"])
    if count > COUNT_MAX:  # before they are made: a short file can ask for more than the memory holds
        raise ConfigError(f"{where}: {count} workers; at most {COUNT_MAX} can be simulated")
    workers = [worker for number, row in enumerate(rows["workers"]) for worker in _workers(row, number)]
    served = sorted({worker.spec.model for worker in workers})
    streams = tuple(Stream(**row) for row in rows["arrivals"])
    for number, stream in enumerate(streams, start=1):
        if stream.model not in served:
            hint = did_you_mean(stream.model, served)
            raise ConfigError(f"{where}: arrivals {number}: no worker serves the model '{stream.model}'{hint}")
    return Fleet(tuple(workers), streams)


def _rows(data: Mapping[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    tables = data.get(name, [])
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{where}: there must be at least one [[{name}]] table")
    return [_row(table, _TABLES[name], f"{where}: {name} {number}") for number, table in enumerate(tables, start=1)]


def _row(table: Mapping[str, Any], keys: Mapping[str, _Key], where: str) -> dict[str, Any]:
    for name in table:
        if name not in keys:
            raise ConfigError(f"{where}: unknown key '{name}'{did_you_mean(name, list(keys))}")
    row = {}
    for name, key in keys.items():
        if name not in table:
            if key.default is REQUIRED:
                raise ConfigError(f"{where}: '{name}' is missing")
            row[name] = key.default
            continue
        try:
            row[name] = key.read(table[name])
        except ValueError as error:
            raise ConfigError(f"{where}: {name}: {error}") from None
    return row


def _number(low: float, high: float) -> Callable[[object], float]:
    def read(raw: object) -> float:
        if isinstance(raw, bool) or not isinstance(raw, int | float) or not low <= raw <= high:
            raise ValueError(f"expected a number from {low:g} to {high:g}, not {raw!r:.40}")
        return float(raw)

    return read


def _whole(low: int, high: int) -> Callable[[object], int]:
    def read(raw: object) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int) or not low <= raw <= high:
            raise ValueError(f"expected a whole number from {low} to {high}, not {raw!r:.40}")
        return raw

    return read


def _name(pattern: re.Pattern[str]) -> Callable[[object], str]:
    def read(raw: object) -> str:
        if not isinstance(raw, str) or not pattern.fullmatch(raw):
            raise ValueError(f"expected a name, not {raw!r:.40}")
        return raw

    return read


def _priority(raw: object) -> Priority:
    choices = [priority.value for priority in Priority]
    if raw not in choices:
        raise ValueError(f"expected {' or '.join(choices)}, not {raw!r:.40}{did_you_mean(str(raw), choices)}")
    return Priority(raw)


_MILLION = 1_000_000
_TABLES: Mapping[str, Mapping[str, _Key]] = {
    "workers": {
        "pool": _Key(_name(SESSION_ID), "local"),
        "model": _Key(_name(MODEL_ID), REQUIRED),
        "count": _Key(_whole(1, COUNT_MAX), 1),
        "slots": _Key(_whole(1, 1024), 1),
        "context": _Key(_whole(1, 100 * _MILLION), 8192),
        "tokens_per_s": _Key(_number(0.001, _MILLION), REQUIRED),
        "total_tokens_per_s": _Key(_number(0.001, _MILLION), None),
        "prefill_tokens_per_s": _Key(_number(0.001, 100 * _MILLION), None),
        "ttft_ms": _Key(_number(0, 3_600_000), 200.0),
    },
    "arrivals": {
        "tenant": _Key(_name(SESSION_ID), "default"),
        "priority": _Key(_priority, Priority.INTERACTIVE),
        "model": _Key(_name(MODEL_ID), REQUIRED),
        "per_minute": _Key(_number(0.0001, 10 * _MILLION), REQUIRED),
        "prompt_tokens": _Key(_whole(1, 100 * _MILLION), 100),
        "tokens_out": _Key(_number(1, 10 * _MILLION), REQUIRED),
        "sessions": _Key(_whole(0, _MILLION), 0),
        "max_tokens": _Key(_whole(1, 10 * _MILLION), None),
    },
}


def _workers(row: Mapping[str, Any], number: int) -> Sequence[StagedWorker]:
    speed = Speed(row["ttft_ms"] / 1000, row["tokens_per_s"], row["total_tokens_per_s"], row["prefill_tokens_per_s"])
    workers = []
    for copy in range(1, row["count"] + 1):
        name = WorkerId(f"{row['pool']}-{row['model']}-{number + 1}-{copy}")
        spec = WorkerSpec(
            name,
            f"simulated://{name}",
            ModelId(row["model"]),
            "simulated",
            PoolId(row["pool"]),
            row["slots"],
            row["context"],
            0,
            "",
            1,
        )
        workers.append(StagedWorker(spec, speed))
    return workers


def _draw(stream: Stream, number: int, rng: Random, begin: float, duration_s: float) -> list[Arrival]:
    max_tokens = stream.max_tokens or round(stream.tokens_out * MAX_TOKENS_OVER_MEAN)
    at = 0.0
    drawn: list[Arrival] = []
    while (at := at + rng.expovariate(stream.per_minute / 60)) < duration_s:
        tokens = min(max_tokens, 1 + round(rng.expovariate(1 / max(stream.tokens_out - 1, 1e-9))))
        session = f"{stream.tenant}-{number + 1}-{rng.randrange(stream.sessions)}" if stream.sessions else None
        spec = JobSpec(
            JobId(f"job-{number + 1}-{len(drawn) + 1}"),
            b"",
            "",
            stream.prompt_tokens * BYTES_A_TOKEN,
            0,
            model=stream.model,
            prompt_tokens=stream.prompt_tokens,
            max_tokens=max_tokens,
            priority=stream.priority,
            tenant=stream.tenant,
            session_id=None if session is None else SessionId(session),
        )
        drawn.append(Arrival(begin + at, spec, tokens, stream.prompt_tokens))
    return drawn
