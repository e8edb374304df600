"""What is heard of pools and of the commands given to them, and what the brain believes of its workers from then on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from llorch.base import errors
from llorch.core import eviction, leases
from llorch.core.demand_settings import DemandRead
from llorch.core.effects import SpawnCause, SpawnWorker, StopCause
from llorch.core.events import (
    HeartbeatReceived,
    SpawnFailed,
    SpawnProgressed,
    SpawnReady,
    SpawnRequested,
    SpawnStarted,
    StopFailed,
    WorkerStopped,
)
from llorch.core.pool_book import Phase, Pool, Tenancy
from llorch.core.pool_facts import PoolRead, WorkerThere
from llorch.core.state import State
from llorch.core.worker import WorkerSpec, WorkerState

ACTUATOR_GRACE_S = 60.0


def handlers(state: State) -> dict[type[Any], Callable[[Any], None]]:
    """Event type to what is done about it."""
    table: dict[type[Any], Callable[[State, Any], None]] = {
        DemandRead: read,
        PoolRead: pool_read,
        SpawnRequested: requested,
        SpawnStarted: started,
        SpawnProgressed: progressed,
        SpawnReady: ready,
        SpawnFailed: failed,
        WorkerStopped: stopped,
        StopFailed: stop_failed,
    }
    return {kind: partial(then, state) for kind, then in table.items()}


def read(state: State, event: DemandRead) -> None:
    """The configuration says this from now on."""
    state.book.read(event)
    _share_pools(state)


def _share_pools(state: State) -> None:
    """Pools that a model can be loaded on are known to those who pin to them."""
    pools = state.book.pools if state.book.on_demand else ()
    state.fleet.loadable_pools = frozenset(pools)


def pool_read(state: State, event: PoolRead) -> None:
    """News of a pool: what it has, what runs there, whether it is awake."""
    book = state.book
    pool = book.heard(event, state.now)
    if event.reachable:
        if pool.waking_since is not None:
            pool.wake_s.note(state.now - pool.waking_since)
            pool.waking_since = None
        for there in event.workers:
            if book.is_ours(there.worker_id) and there.worker_id not in book.tenancies:
                _take_over(state, pool, there)
    _share_pools(state)
    book.stirred = True


def _take_over(state: State, pool: Pool, there: WorkerThere) -> None:
    """A worker of ours from before a restart, or one whose command seemed to fail: it is on this pool."""
    book = state.book
    known = pool.model(there.model)
    need = 0 if known is None else book.need_bytes(known, there.backend)
    bank = pool.bank_of(there.backend, there.gpu)
    tenancy = Tenancy(
        there.worker_id, pool.id, there.model, there.backend, bank, need, Phase.LIVE, state.now, state.now, settled=True
    )
    book.tenancies[there.worker_id] = tenancy
    worker = state.fleet.workers.get(there.worker_id)
    if worker is None:
        return
    tenancy.announced = worker.state is not WorkerState.LOST
    if worker.spec.pool != pool.id:
        state.fleet.move(worker, pool.id, state.now)
        state.keep_worker(worker)
        state.touch(worker)


def requested(state: State, event: SpawnRequested) -> None:
    """By an operator's hand: the command is given, and its memory counted."""
    book = state.book
    if event.worker_id in book.tenancies:
        return
    pool = book.pool(event.pool)
    there = pool.model(event.model)
    need = 0 if there is None else book.need_bytes(there, event.backend)
    bank = pool.bank_of(event.backend, event.gpu)
    book.tenancies[event.worker_id] = Tenancy(
        event.worker_id, event.pool, event.model, event.backend, bank, need, Phase.SPAWNING, state.now, state.now
    )
    limit_s = book.settings.spawn_limit_s
    cause = SpawnCause.OPERATOR
    state.do(SpawnWorker(event.pool, event.model, event.worker_id, event.backend, event.gpu, 1, cause, limit_s))


def started(state: State, event: SpawnStarted) -> None:
    """Loading begins: what went before was waiting for other commands."""
    tenancy = state.book.tenancies.get(event.worker_id)
    if tenancy is not None and tenancy.phase is Phase.SPAWNING:
        tenancy.since = tenancy.spawned_at = state.now


def progressed(state: State, event: SpawnProgressed) -> None:
    tenancy = state.book.tenancies.get(event.worker_id)
    if tenancy is not None and tenancy.phase is Phase.SPAWNING:
        tenancy.progress = min(1.0, max(tenancy.progress, event.progress))


def ready(state: State, event: SpawnReady) -> None:
    """It serves, says its command; until it has announced itself it is of no use."""
    tenancy = state.book.tenancies.get(event.worker_id)
    if tenancy is not None and tenancy.phase is Phase.SPAWNING:
        tenancy.phase, tenancy.since, tenancy.progress = Phase.LIVE, state.now, 1.0
        state.book.stirred = True


def failed(state: State, event: SpawnFailed) -> None:
    """No worker came of it, unless it has announced itself in spite of that."""
    tenancy = state.book.tenancies.get(event.worker_id)
    if tenancy is not None and tenancy.phase is Phase.SPAWNING and not tenancy.announced:
        state.book.failed(tenancy, event.reason, event.code, state.now)
        tenancy.phase, tenancy.since = Phase.GONE, state.now
        state.book.stirred = True


def overdue(state: State) -> None:
    """A command whose end was never told is taken for failed; what it may have started is found by the facts."""
    limit_s = state.book.settings.spawn_limit_s + ACTUATOR_GRACE_S
    for tenancy in list(state.book.tenancies.values()):
        if tenancy.phase is Phase.SPAWNING and state.now >= tenancy.since + limit_s:
            failed(state, SpawnFailed(tenancy.worker_id, errors.WorkerUnavailable.code, "nothing was heard of it"))


def stopped(state: State, event: WorkerStopped) -> None:
    """Its process is gone: off the list; its memory counts as free when the pool says so."""
    tenancy = state.book.tenancies.get(event.worker_id)
    if tenancy is not None:
        if tenancy.condemned == StopCause.STRAY.value and not tenancy.announced:
            code = errors.WorkerUnavailable.code
            state.book.failed(tenancy, "its worker loaded, but never announced itself", code, state.now)
        tenancy.phase, tenancy.since = Phase.GONE, state.now
        state.book.stirred = True
    leases.forget_worker(state, event.worker_id)


def stop_failed(state: State, event: StopFailed) -> None:
    """It stays condemned, and is told again later."""
    tenancy = state.book.tenancies.get(event.worker_id)
    if tenancy is not None and tenancy.phase is Phase.STOPPING:
        tenancy.phase, tenancy.since = Phase.LIVE, state.now
        tenancy.stop_at = state.now + state.book.settings.stop_backoff_s
        state.book.stirred = True


def at_home(state: State, spec: WorkerSpec) -> WorkerSpec:
    """The announced worker with the name of the pool it was spawned on in place of its address's host."""
    tenancy = state.book.tenancies.get(spec.worker_id)
    known = state.fleet.workers.get(spec.worker_id)
    pool = spec.pool
    if tenancy is not None:
        pool = tenancy.pool
    elif known is not None and known.spec.url == spec.url:
        pool = known.spec.pool
    return spec if pool == spec.pool else replace(spec, pool=pool)


def announced(state: State, spec: WorkerSpec) -> None:
    """A worker has come, or has come anew. If it is ours the load is over, and one that is condemned stays so."""
    leases.announced(state, at_home(state, spec))
    book = state.book
    tenancy = book.tenancies.get(spec.worker_id)
    if tenancy is None:
        return
    if not tenancy.announced:
        tenancy.announced = True
        if tenancy.phase in (Phase.SPAWNING, Phase.GONE):
            book.succeeded(tenancy, state.now)
            tenancy.phase = Phase.LIVE
        tenancy.since, tenancy.progress = state.now, 1.0
    if tenancy.condemned and (worker := state.fleet.workers.get(spec.worker_id)) is not None:
        eviction.bar(state, worker)
    book.stirred = True


def heard(state: State, event: HeartbeatReceived) -> None:
    """What a worker takes by its own word: if more than was thought, that counts for the next of its kind, too."""
    leases.heard(state, event)
    tenancy = state.book.tenancies.get(event.worker_id)
    if tenancy is not None and event.load.vram_bytes > tenancy.need_bytes:
        tenancy.need_bytes = event.load.vram_bytes
        state.book.seen_bytes[tenancy.model, tenancy.backend] = event.load.vram_bytes
