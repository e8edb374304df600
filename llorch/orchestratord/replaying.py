"""A journal as a scene to play again: when jobs came, who was there to serve them, and how long each took."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from llorch.base import errors
from llorch.base.ids import JobId, ModelId, PoolId, SessionId, TenantId, WorkerId
from llorch.core.figures import Fate, Outcome
from llorch.core.job import Failure, FailureKind, JobRecord, JobState
from llorch.core.staging import Arrival, Measured, Speed, StagedWorker
from llorch.core.worker import WorkerRecord, WorkerSpec, WorkerState
from llorch.store.journal import Journal

# What is believed of a worker that nothing was measured of.
SPEED_UNKNOWN = Speed(ttft_s=0.5, tokens_per_s=20.0)
TOKENS_UNKNOWN = 128
CONTEXT_UNKNOWN = 1 << 20
POOL_UNKNOWN = PoolId("unknown")
# With these a job failed by what it asked, or by its worker: it would again. Others are the brain's own verdicts.
_WORKERS_CODES = frozenset({errors.InvalidRequest.code, errors.ContextLengthExceeded.code, errors.InferenceFailed.code})


@dataclass(frozen=True, slots=True)
class Cast:
    """The workers of a journal. `guessed`: they are not known any more, so that slots and times are what jobs show."""

    workers: tuple[StagedWorker, ...]
    guessed: tuple[WorkerId, ...]
    unmeasured: tuple[WorkerId, ...]


def arrivals_of(jobs: Sequence[JobRecord]) -> tuple[Arrival, ...]:
    """Every job as it came, with what it took where that was measured, and else the median of its model."""
    lengths: dict[ModelId | None, list[int]] = {}
    for job in jobs:
        if (tokens := _tokens_out(job)) is not None and job.state is JobState.COMPLETED:
            lengths.setdefault(job.model, []).append(tokens)
    usual = {model: round(median(tokens)) for model, tokens in lengths.items()}
    return tuple(_arrival(job, usual.get(job.model or job.spec.model, TOKENS_UNKNOWN)) for job in jobs)


def _arrival(job: JobRecord, usual_tokens: int) -> Arrival:
    tokens = _tokens_out(job)
    if job.state is not JobState.COMPLETED or tokens is None:
        # It was stopped before its end: it would have gone on, to a length that nobody knows.
        tokens = max(tokens or 0, min(usual_tokens, job.spec.max_tokens or usual_tokens))
    result = None if job.ending is None else job.ending.result
    prompt_tokens = job.spec.prompt_tokens if result is None else result.prompt_tokens
    gave_up = job.state is JobState.CANCELLED and job.ended_at is not None
    return Arrival(
        job.accepted_at,
        job.spec,
        tokens,
        prompt_tokens,
        measured(job),
        max(0.0, (job.ended_at or 0.0) - job.accepted_at) if gave_up else None,
        _failure(job),
    )


def _tokens_out(job: JobRecord) -> int | None:
    return None if job.ending is None or job.ending.result is None else job.ending.result.tokens_out


def _failure(job: JobRecord) -> Failure | None:
    ending = job.ending
    if ending is None or ending.error_code not in _WORKERS_CODES:
        return None
    failed = ending.error_code == errors.InferenceFailed.code
    kind = FailureKind.FAILED if failed else FailureKind.REJECTED
    return Failure(kind, ending.error_code or "", ending.error_message or "")


def measured(job: JobRecord) -> Measured | None:
    """How long a completed job held its slot: by our clock when it had one attempt, else by its last worker's."""
    result = None if job.ending is None else job.ending.result
    if job.state is not JobState.COMPLETED or result is None or job.worker_id is None:
        return None
    if job.attempts == 1 and None not in (job.dispatched_at, job.first_token_at, job.ended_at):
        assert job.dispatched_at is not None and job.first_token_at is not None and job.ended_at is not None
        ttft_s, decode_s = job.first_token_at - job.dispatched_at, job.ended_at - job.first_token_at
        return Measured(job.worker_id, max(0.0, ttft_s), max(0.0, decode_s))
    if result.ttft_ms is None:
        return None
    return Measured(job.worker_id, result.ttft_ms / 1000, result.decode_time_ms / 1000)


def cast_of(journal: Journal) -> Cast:
    """The workers of the journal, and those that only its jobs tell of."""
    known = {record.spec.worker_id: record for record in journal.workers}
    served: dict[WorkerId, list[JobRecord]] = {}
    for job in journal.jobs:
        if job.worker_id is not None and job.model is not None and job.dispatched_at is not None:
            served.setdefault(job.worker_id, []).append(job)
    speeds = _Speeds(journal.jobs)
    guessed = tuple(sorted(set(served) - set(known)))
    workers = [_known(record, served.get(name, []), speeds, served) for name, record in sorted(known.items())]
    workers += [_guessed(name, served[name], speeds, served) for name in guessed]
    unmeasured = tuple(w.spec.worker_id for w in workers if not speeds.known(w.spec.model))
    return Cast(tuple(workers), guessed, unmeasured)


def _known(
    record: WorkerRecord, jobs: list[JobRecord], speeds: _Speeds, served: dict[WorkerId, list[JobRecord]]
) -> StagedWorker:
    spec = record.spec
    up_at = min([record.announced_at, *map(_evidence_at, jobs)])
    down_at = None
    if record.state is WorkerState.LOST and jobs:
        down_at = _left_at(spec.worker_id, spec.model, served)
    return StagedWorker(spec, speeds.of(spec.worker_id, spec.model), up_at, down_at)


def _guessed(
    name: WorkerId, jobs: list[JobRecord], speeds: _Speeds, served: dict[WorkerId, list[JobRecord]]
) -> StagedWorker:
    model = jobs[-1].model
    assert model is not None
    pools = [job.spec.wishes.pin_pool for job in jobs if job.spec.wishes.pin_pool is not None]
    pool = PoolId(pools[0]) if pools else POOL_UNKNOWN
    url = f"replay://{name}"
    spec = WorkerSpec(name, url, model, "unknown", pool, _at_once_max(jobs), CONTEXT_UNKNOWN, 0, "", 1)
    return StagedWorker(spec, speeds.of(name, model), min(map(_evidence_at, jobs)), _left_at(name, model, served))


def _evidence_at(job: JobRecord) -> float:
    """When the job's worker was there for certain. A pinned job was let in only because it was."""
    pinned = job.spec.wishes.pin_worker is not None or job.spec.wishes.pin_pool is not None
    return job.accepted_at if pinned or job.dispatched_at is None else job.dispatched_at


def _left_at(name: WorkerId, model: ModelId, served: dict[WorkerId, list[JobRecord]]) -> float | None:
    """When a worker that is gone left: with its last job, if others of its model went on; else it has to stay."""
    last = max(job.ended_at or job.accepted_at for job in served[name])
    others = (job for other, jobs in served.items() if other != name for job in jobs if job.model == model)
    return last if any((job.dispatched_at or 0.0) > last for job in others) else None


def _at_once_max(jobs: Iterable[JobRecord]) -> int:
    """The most jobs that a worker was on at the same time."""
    changes: list[tuple[float, int]] = []
    for job in jobs:
        assert job.dispatched_at is not None
        changes += [(job.dispatched_at, 1), (max(job.dispatched_at, job.ended_at or job.dispatched_at), -1)]
    running = most = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return max(1, most)


class _Speeds:
    """Medians of what was measured, by worker and by model."""

    def __init__(self, jobs: Iterable[JobRecord]) -> None:
        self._by_worker: dict[WorkerId, list[tuple[float, float]]] = {}
        self._by_model: dict[ModelId, list[tuple[float, float]]] = {}
        for job in jobs:
            took, tokens = measured(job), _tokens_out(job)
            if took is None or tokens is None or tokens < 2 or took.decode_s <= 0 or job.model is None:
                continue
            sample = (took.ttft_s, (tokens - 1) / took.decode_s)
            self._by_worker.setdefault(took.worker_id, []).append(sample)
            self._by_model.setdefault(job.model, []).append(sample)

    def known(self, model: ModelId) -> bool:
        return model in self._by_model

    def of(self, worker_id: WorkerId, model: ModelId) -> Speed:
        samples = self._by_worker.get(worker_id) or self._by_model.get(model)
        if not samples:
            return SPEED_UNKNOWN
        return Speed(median(ttft for ttft, _ in samples), median(pace for _, pace in samples))


def fates_of(jobs: Sequence[JobRecord]) -> list[Fate]:
    """What did become of the jobs."""
    fates = [_fate(job) for job in jobs]
    sessions: dict[tuple[TenantId, SessionId], WorkerId] = {}
    dispatched: dict[JobId, float] = {
        fate.spec.job_id: fate.dispatched_at for fate in fates if fate.dispatched_at is not None
    }
    for fate in sorted(fates, key=lambda fate: dispatched.get(fate.spec.job_id, float("inf"))):
        if fate.spec.session_id is None or fate.worker_id is None:
            continue
        session = (fate.spec.tenant, fate.spec.session_id)
        if session in sessions:
            fate.session_kept = sessions[session] == fate.worker_id
        sessions[session] = fate.worker_id
    return fates


def _fate(job: JobRecord) -> Fate:
    return Fate(
        job.spec,
        job.accepted_at,
        job.dispatched_at,
        job.first_token_at,
        job.ended_at,
        Outcome(job.state.value) if job.state.terminal else Outcome.UNFINISHED,
        None if job.ending is None else job.ending.error_code,
        _tokens_out(job) or 0,
        job.attempts,
        job.worker_id,
    )
