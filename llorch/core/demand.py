"""Loading on demand: jobs whose model no worker has get one loaded, where it fits best; what nobody needs is unloaded.

A look is taken when something stirred (a job without a worker, news of a pool, a command that ended) and once a second
while anything is loaded or wanted. Nothing here runs a command: effects are given, outcomes come back as events.
"""

from __future__ import annotations

from llorch.base import errors
from llorch.base.ids import JobId, ModelId
from llorch.core import eviction, journey, loading
from llorch.core.effects import SpawnCause, SpawnWorker, WakePool
from llorch.core.fit import Fit, Offers, covered, may_return, offers, read_again, unmet
from llorch.core.pool_book import Phase, Pool, Tenancy
from llorch.core.queue import Shape
from llorch.core.state import State
from llorch.core.timers import Bell
from llorch.core.want import Want


def due(state: State) -> bool:
    """Something stirred since the last look."""
    return state.book.stirred and state.book.on_demand


def look(state: State) -> None:
    """See what is missing and what is too much, and give the commands that follow."""
    book = state.book
    book.stirred = False
    if state.draining:
        return
    wants = unmet(state)
    if state.now >= book.quiet_until:
        _forget_met(state, wants)
        _limit_wakes(state)
        eviction.condemn_idle(state)
        for want in sorted(wants, key=lambda want: (book.wanted_since.setdefault(want, state.now), str(want))):
            _meet(state, want, wants[want])
        _keep_minimum(state)
        _scale_out(state)
        eviction.stop_condemned(state)
    book.wanting = bool(wants)
    if wants or book.tenancies or len(state.queue) or any(limits.replicas_min for limits in book.limits.values()):
        state.timers.set(Bell.DEMAND, "", max(state.now + book.settings.look_every_s, book.quiet_until))


def _forget_met(state: State, wants: dict[Want, list[Shape]]) -> None:
    book = state.book
    for since in (book.wanted_since, book.hopeless_since, book.declined_until):
        for want in [want for want in since if want not in wants]:
            del since[want]
    book.swapped.intersection_update(wants)
    # What failed for jobs that are gone does not count against those that come later.
    wanted = {want.model for want in wants}
    for model in [model for model in book.failures if not wanted & {model, None}]:
        del book.failures[model]


def _meet(state: State, want: Want, shapes: list[Shape]) -> None:
    """One step towards a worker for those who wait: load, make room, wake, wait for better times, or give up."""
    book = state.book
    coming = any(want.allows(tenancy.pool) for tenancy in book.loading(want.model))
    if coming or may_return(state, want):
        book.hopeless_since.pop(want, None)
        return
    model = want.model or _any_model(state, want)
    found = Offers() if model is None else offers(state, want, model)
    waited_s = state.now - book.wanted_since[want]
    if model is not None and book.failures.get(model, 0) >= book.settings.spawn_failures_max:
        _give_up_loading(state, model, found, shapes)
    elif found.fits:
        fit = found.fits[0]
        spawn(state, fit, SpawnCause.JOB, swaps=want in book.swapped)
        book.swapped.discard(want)
        _explain(state, shapes, fit, found)
    elif found.crowded and eviction.make_room(state, want, found, waited_s):
        book.swapped.add(want)
    elif found.asleep:
        _wake(state, found.asleep[0])
    elif found.hopeful or (found.crowded and eviction.could_make_room(state, found)):
        _refresh(state, want)
    else:
        _despair(state, want, model, found, shapes)
        return
    book.hopeless_since.pop(want, None)


def _any_model(state: State, want: Want) -> ModelId | None:
    """For jobs that take any model: the one that is easiest to have."""

    def cost(model: ModelId) -> tuple[bool, bool, int, str]:
        found = offers(state, want, model)
        needs = [fit.need_bytes for fit in (found.fits or found.crowded)]
        return (not found.fits, not found.crowded, min(needs, default=0), model)

    return min(state.book.models, key=cost, default=None)


def spawn(state: State, fit: Fit, cause: SpawnCause, *, swaps: bool = False) -> None:
    """Take the memory and give the command."""
    book = state.book
    worker_id = book.name_worker(fit.pool.id, fit.model, state.now)
    place = fit.place
    book.tenancies[worker_id] = Tenancy(
        worker_id,
        fit.pool.id,
        fit.model,
        place.backend,
        place.bank,
        fit.need_bytes,
        Phase.SPAWNING,
        state.now,
        state.now,
    )
    attempt = book.failures.get(fit.model, 0) + 1
    limit_s = book.settings.spawn_limit_s
    state.do(SpawnWorker(fit.pool.id, fit.model, worker_id, place.backend, place.gpu, attempt, cause, limit_s, swaps))


def _explain(state: State, shapes: list[Shape], fit: Fit, found: Offers) -> None:
    """Say to those who wait where their model is being loaded, and why not elsewhere."""
    others = [(other.pool.id, "could, but another ranked better") for other in found.fits[1:]]
    reasons = [*found.reasons, *others][: state.settings.reasons_max]
    eta_s = state.book.eta_for(fit.model, fit.pool.id)
    soon = "" if eta_s is None else f", about {eta_s:.0f} s"
    for job_id in _members(state, shapes)[: state.book.settings.explained_max]:
        loading.tell(state, state.jobs[job_id])
        state.explain(job_id, "loading", fit.pool.id, reasons, f"{fit.model} on {fit.place.backend}{soon}")


def _members(state: State, shapes: list[Shape]) -> list[JobId]:
    return [job_id for shape in shapes for job_id in state.queue.members(shape)]


def _wake(state: State, pool: Pool) -> None:
    pool.waking_since = state.now
    state.do(WakePool(pool.id, state.book.settings.wake_limit_s))


def _limit_wakes(state: State) -> None:
    """A pool that does not wake up is left alone for a while."""
    settings = state.book.settings
    for pool in state.book.pools.values():
        if pool.waking_since is not None and state.now >= pool.waking_since + settings.wake_limit_s:
            pool.waking_since, pool.wake_again_at = None, state.now + settings.wake_backoff_s
            pool.reason = f"did not wake within {settings.wake_limit_s:.0f} s"


def _refresh(state: State, want: Want) -> None:
    """Ask the pools that the want accepts how they are, if that was long ago."""
    for name, pool in sorted(state.book.pools.items()):
        if want.allows(name):
            read_again(state, pool)


def _despair(state: State, want: Want, model: ModelId | None, found: Offers, shapes: list[Shape]) -> None:
    """No pool can: look again at once, and when that has not helped for a while, end the jobs with the reasons."""
    since = state.book.hopeless_since.setdefault(want, state.now)
    _refresh(state, want)
    if state.now < since + state.book.settings.hopeless_s:
        return
    del state.book.hopeless_since[want]
    code = errors.InsufficientMemory.code if found.short else errors.WorkerUnavailable.code
    _end(state, shapes, code, f"no pool can load {model or 'any model'}", found)


def _give_up_loading(state: State, model: ModelId, found: Offers, shapes: list[Shape]) -> None:
    """It was tried enough: end those who wait. Who comes later may try again when the pools' pauses are over."""
    failures = state.book.failures.pop(model)
    code = state.book.last_code.pop(model, errors.WorkerUnavailable.code)
    if code != errors.InsufficientMemory.code:
        code = errors.WorkerUnavailable.code
    reasons: dict[str, str] = dict(found.reasons)
    for name, pool in state.book.pools.items():
        if (trouble := pool.trouble.get(model)) is not None:
            reasons[name] = trouble.reason
    found = Offers(reasons=sorted(reasons.items()))
    _end(state, shapes, code, f"{model} could not be loaded in {failures} attempts", found)


def _end(state: State, shapes: list[Shape], code: str, what: str, found: Offers) -> None:
    why = "; ".join(f"{name}: {reason}" for name, reason in found.reasons) or "no pool is known"
    for job_id in _members(state, shapes):
        state.explain(job_id, "unloadable", None, found.reasons[: state.settings.reasons_max], what)
        journey.give_up(state, state.jobs[job_id], code, f"{what} ({why})")


def _keep_minimum(state: State) -> None:
    """As many workers of a model as the configuration always wants."""
    book = state.book
    for model, limits in sorted(book.limits.items()):
        if book.replicas(model) >= limits.replicas_min or any(book.loading(model)):
            continue
        found = offers(state, Want(model), model)
        if found.fits:
            spawn(state, found.fits[0], SpawnCause.MINIMUM)


def _scale_out(state: State) -> None:
    """One more worker of a model whose queue is too long, while there is room without unloading anything."""
    book = state.book
    for model in sorted(book.models):
        limits = book.limits_of(model)
        if not 0 < book.replicas(model) < limits.replicas_max or any(book.loading(model)):
            continue
        waiting = state.queue.waits_for(model)
        eta_s = state.queue.eta_in(model, waiting, state.now) if waiting else None
        if eta_s is None or eta_s <= book.settings.scale_out_eta_s or not covered(state.fleet, Want(model)):
            continue
        found = offers(state, Want(model), model)
        if found.fits:
            spawn(state, found.fits[0], SpawnCause.BACKLOG)
