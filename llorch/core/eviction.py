"""Unloading: idle workers whose time is over, room for a model that is wanted, strays. Never one with a live job.

A worker is *condemned* first: it gets no job any more; when it is empty, the command that stops it is given. Only
workers of ours (see PoolBook.is_ours) are ever condemned, and never one of those that are kept of a model: the least
number, or the last of a pinned one. When another of its model fails before the command is given, it is pardoned.
"""

from __future__ import annotations

from functools import partial

from llorch.base.ids import ModelId
from llorch.core import asking
from llorch.core.asking import Unanswered
from llorch.core.effects import StopCause, StopWorker
from llorch.core.fit import Fit, Offers, covered, offers, read_again
from llorch.core.fleet import Worker
from llorch.core.hooks import Answer, evictable_argument
from llorch.core.policy import Evictable, Hook
from llorch.core.pool_book import Phase, Tenancy
from llorch.core.queue import Shape
from llorch.core.state import State
from llorch.core.want import Want
from llorch.core.worker import WorkerState


def condemn_idle(state: State) -> None:
    """Workers whose time is over, and strays, are to go."""
    for tenancy in list(state.book.tenancies.values()):
        if tenancy.phase is Phase.LIVE and not tenancy.condemned and state.book.is_ours(tenancy.worker_id):
            _look_at(state, tenancy)


def stop_condemned(state: State) -> None:
    """Give the command that ends those that are to go and are empty."""
    for model in {tenancy.model: None for tenancy in state.book.tenancies.values() if tenancy.condemned}:
        _pardon(state, model)
    for tenancy in list(state.book.tenancies.values()):
        if tenancy.condemned and tenancy.phase is Phase.LIVE and state.now >= tenancy.stop_at:
            _stop_if_empty(state, tenancy)


def _look_at(state: State, tenancy: Tenancy) -> None:
    settings, limits = state.book.settings, state.book.limits_of(tenancy.model)
    worker = state.fleet.workers.get(tenancy.worker_id)
    if worker is None or worker.state is WorkerState.LOST:
        read_again(state, state.book.pool(tenancy.pool))
        since = tenancy.since if worker is None else max(tenancy.since, worker.lease_until)
        if state.now >= since + settings.announce_limit_s:
            condemn(state, tenancy, StopCause.STRAY)
    elif not tenancy.announced or not _dispensable(state, tenancy, worker) or not _idle(state, worker):
        return
    elif state.now >= max(worker.used_at, tenancy.since) + limits.ttl_s:
        condemn(state, tenancy, StopCause.IDLE)


def _dispensable(state: State, tenancy: Tenancy, worker: Worker) -> bool:
    """It serves, was loaded on demand, and its model is served by more than are always kept; idle or not."""
    serves = tenancy.phase is Phase.LIVE and not tenancy.condemned and worker.state is WorkerState.READY
    return serves and state.book.is_ours(tenancy.worker_id) and _spare(state, tenancy.model) > 0


def _spare(state: State, model: ModelId) -> int:
    """How many of the workers that serve the model are more than are always kept; negative: so many too few."""
    serving = sum(
        state.book.is_ours(worker.id) and not state.book.condemned(worker.id) for worker in state.fleet.ready(model)
    )
    return serving - state.book.limits_of(model).kept


def _pardon(state: State, model: ModelId) -> None:
    """Too few serve the model by now: of those to go, some stay, those that answer first and the last used first."""
    missing = -_spare(state, model)
    going = []
    for tenancy in state.book.tenancies.values():
        worker = state.fleet.workers.get(tenancy.worker_id)
        mine = tenancy.model == model and tenancy.phase is Phase.LIVE and tenancy.condemned
        if mine and tenancy.condemned != StopCause.STRAY.value and worker is not None and not worker.drain_asked:
            going.append((tenancy, worker))
    going.sort(key=lambda pair: (pair[1].state is WorkerState.LOST, -pair[1].used_at, pair[0].worker_id))
    for tenancy, worker in going:
        if missing <= 0:
            return
        tenancy.condemned = ""
        if worker.state is WorkerState.DRAINING and not worker.load.draining:
            _unbar(state, worker)
            missing -= 1


def _idle(state: State, worker: Worker) -> bool:
    """Nobody is on it and nobody waits for its model."""
    return worker.idle and not state.queue.waits_for(worker.spec.model)


def condemn(state: State, tenancy: Tenancy, cause: StopCause) -> None:
    """No job for it any more; it is stopped as soon as it is empty."""
    tenancy.condemned = cause.value
    worker = state.fleet.workers.get(tenancy.worker_id)
    if worker is not None and worker.state is WorkerState.READY:
        bar(state, worker)


def bar(state: State, worker: Worker) -> None:
    """Take a condemned worker out of placement."""
    worker.state = WorkerState.DRAINING
    state.fleet.refresh(worker, state.now)
    state.keep_worker(worker)
    state.shaken[worker.spec.model] = None


def _unbar(state: State, worker: Worker) -> None:
    """It takes jobs again."""
    worker.state = WorkerState.READY
    state.fleet.refresh(worker, state.now)
    state.keep_worker(worker)
    state.touch(worker)


def _stop_if_empty(state: State, tenancy: Tenancy) -> None:
    worker = state.fleet.workers.get(tenancy.worker_id)
    if worker is not None and not worker.idle and worker.state is not WorkerState.LOST:
        return
    if state.book.busy(tenancy.pool):
        return
    tenancy.phase, tenancy.since = Phase.STOPPING, state.now
    limit_s = state.book.settings.stop_limit_s
    cause = StopCause(tenancy.condemned)
    state.do(StopWorker(tenancy.pool, tenancy.worker_id, tenancy.model, cause, limit_s))


# Room for a model that is wanted


def make_room(state: State, want: Want, found: Offers, waited_s: float) -> bool:
    """Have others unloaded where the wanted model would fit then; True when that is under way.

    Idle ones at once, by the script's order where it has one. When the want has waited `swap_age_max_s`, busy ones,
    too: they get no further job, and end those that they have.
    """
    if _under_way(state, want, found):
        return True
    idle = _evictable(state, waited_s, busy_too=False)
    if Hook.EVICT in state.scripted and idle and want not in state.book.asked_evict:
        if state.now >= state.book.declined_until.get(want, 0.0):
            _ask(state, want, found, idle)
            return True
    elif want in state.book.asked_evict or _condemn_best(state, found.crowded, idle):
        return True
    if waited_s >= state.book.settings.swap_age_max_s:
        return _condemn_best(state, found.crowded, _evictable(state, waited_s, busy_too=True))
    return False


def could_make_room(state: State, found: Offers) -> bool:
    """Some day the workers there will be idle, or have been there long enough: the want may hope."""
    for fit in found.crowded:
        room = state.book.free_bytes(fit.pool, fit.place.bank)
        spare: dict[ModelId, int] = {}
        for tenancy in state.book.on(fit.pool.id):
            if tenancy.bank == fit.place.bank and _may_go(state, tenancy, spare):
                room += tenancy.need_bytes
        if room >= fit.need_bytes:
            return True
    return False


def hopeful(state: State, shape: Shape) -> bool:
    """A worker for this shape is on its way, or may yet be loaded."""
    want = Want.of(shape)
    if not state.book.on_demand or shape.pin_worker is not None or want.model is None:
        return False
    if any(want.allows(tenancy.pool) for tenancy in state.book.loading(want.model)):
        return True
    found = offers(state, want, want.model)
    return bool(found.fits or found.asleep or found.hopeful or could_make_room(state, found))


def _may_go(state: State, tenancy: Tenancy, spare: dict[ModelId, int]) -> bool:
    """It may be evicted some day, is going already, or is silent: then it comes back or is stopped as a stray."""
    if tenancy.condemned or tenancy.phase is Phase.GONE:
        return True
    worker = state.fleet.workers.get(tenancy.worker_id)
    if worker is None or worker.state is WorkerState.LOST:
        return state.book.is_ours(tenancy.worker_id)
    return _dispensable(state, tenancy, worker) and _one_more(state, tenancy.model, spare)


def _one_more(state: State, model: ModelId, spare: dict[ModelId, int]) -> bool:
    """May another worker of the model go, too? `spare` is what is left when those asked about before are gone."""
    left = spare.setdefault(model, _spare(state, model))
    spare[model] = left - 1
    return left > 0


def _under_way(state: State, want: Want, found: Offers) -> bool:
    """Room is being made already on a pool that could take it: one swap at a time for one want."""
    pools = {fit.pool.id for fit in found.crowded}
    return any(
        tenancy.condemned == StopCause.ROOM.value and tenancy.pool in pools and want.allows(tenancy.pool)
        for tenancy in state.book.tenancies.values()
    )


def _evictable(state: State, waited_s: float, *, busy_too: bool) -> list[tuple[Tenancy, Worker]]:
    """Workers that may go and have been there long enough, idle ones first, then the least recently used first."""
    settings = state.book.settings
    found = []
    for tenancy in state.book.tenancies.values():
        worker = state.fleet.workers.get(tenancy.worker_id)
        if worker is None or not _dispensable(state, tenancy, worker):
            continue
        if state.now < tenancy.since + settings.residency_min_s:
            continue
        # A model goes on being served while jobs for it wait, until others have waited too long.
        if busy_too or _idle(state, worker) or (worker.idle and waited_s >= settings.swap_age_max_s):
            found.append((tenancy, worker))
    return sorted(found, key=lambda pair: (not pair[1].idle, pair[1].used_at, pair[0].worker_id))


def _condemn_best(state: State, crowded: list[Fit], evictable: list[tuple[Tenancy, Worker]]) -> bool:
    """Where unloading costs least: workers unused for longest, and few of them."""
    options = []
    for fit in crowded:
        victims = _victims(state, fit, evictable)
        if victims is not None:
            newest = max((not worker.idle, worker.used_at) for _, worker in victims)
            options.append((newest, len(victims), fit.pool.id, victims))
    if not options:
        return False
    for tenancy, _ in min(options, key=lambda option: option[:3])[3]:
        condemn(state, tenancy, StopCause.ROOM)
    return True


def _victims(state: State, fit: Fit, evictable: list[tuple[Tenancy, Worker]]) -> list[tuple[Tenancy, Worker]] | None:
    """The first of these whose going makes room for the fit; None: not even all of them do."""
    room = state.book.free_bytes(fit.pool, fit.place.bank)
    spare: dict[ModelId, int] = {}
    victims = []
    for tenancy, worker in evictable:
        if room >= fit.need_bytes:
            break
        here = tenancy.pool == fit.pool.id and tenancy.bank == fit.place.bank
        if here and _one_more(state, tenancy.model, spare):
            victims.append((tenancy, worker))
            room += tenancy.need_bytes
    return victims if room >= fit.need_bytes and victims else None


def _ask(state: State, want: Want, found: Offers, idle: list[tuple[Tenancy, Worker]]) -> None:
    need = min(fit.need_bytes for fit in found.crowded)
    views = [
        Evictable(
            worker_id=tenancy.worker_id,
            pool=tenancy.pool,
            model=tenancy.model,
            memory_bytes=tenancy.need_bytes,
            idle_s=state.now - worker.used_at,
            resident_s=state.now - tenancy.since,
        )
        for tenancy, worker in idle
    ]
    state.book.asked_evict.add(want)
    then = partial(_answered, state, want)
    asking.ask_about_fleet(state, Hook.EVICT, then, workers=evictable_argument(views), need=need)


def _answered(state: State, want: Want, answer: Answer | Unanswered) -> None:
    """The script's order, looked at again in the state of this moment; who must stay meanwhile is left out."""
    state.book.asked_evict.discard(want)
    state.book.stirred = True
    if covered(state.fleet, want) or want.model is None:
        return
    found = offers(state, want, want.model)
    if found.fits or not found.crowded:
        return
    idle = _evictable(state, 0.0, busy_too=False)
    if isinstance(answer, tuple):
        named = {tenancy.worker_id: (tenancy, worker) for tenancy, worker in idle}
        idle = [named[name] for name in answer if name in named]
    if not _condemn_best(state, found.crowded, idle):
        state.book.declined_until[want] = state.now + state.settings.declined_max_s
