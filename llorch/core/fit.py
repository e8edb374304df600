"""What jobs want that no worker gives, and which pools could give it: those with room, those that lack it, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from llorch.base.ids import ModelId
from llorch.core.demand_settings import MIB
from llorch.core.effects import ReadPool
from llorch.core.fleet import Fleet
from llorch.core.placement import usable
from llorch.core.pool_book import Pool
from llorch.core.pool_facts import ModelThere, Place
from llorch.core.queue import Shape
from llorch.core.state import State
from llorch.core.want import Want
from llorch.core.worker import WorkerState


class Fit(NamedTuple):
    """A model on a pool: how it would compute there, and the memory it would take."""

    pool: Pool
    model: ModelId
    place: Place
    need_bytes: int


@dataclass(slots=True)
class Offers:
    """What every pool says to a want. `hopeful`: a reason may pass; `short`: a pool's whole memory is too small.

    `fits` could be loaded now, best first; `crowded` if others made room; `asleep` pools may be woken.
    """

    fits: list[Fit] = field(default_factory=list)
    crowded: list[Fit] = field(default_factory=list)
    asleep: list[Pool] = field(default_factory=list)
    reasons: list[tuple[str, str]] = field(default_factory=list)
    hopeful: bool = False
    short: bool = False


def covered(fleet: Fleet, want: Want) -> bool:
    """Some ready worker, busy or not, serves what is wanted: a longer context or another worker is not loaded for."""
    return any(want.allows(worker.spec.pool) and usable(fleet, worker) for worker in fleet.ready(want.model))


def may_return(state: State, want: Want) -> bool:
    """A worker of it was silent for a moment only, or has not come back yet after a restart."""
    return any(
        worker.state is WorkerState.LOST and worker.lease_until > state.now and want.allows(worker.spec.pool)
        for worker in state.fleet.serving(want.model)
    )


def offers(state: State, want: Want, model: ModelId) -> Offers:
    """Ask every pool, in the order of their names, whether it could load the model now."""
    found = Offers()
    book = state.book
    allowed = set(book.allowed(model, book.pools))
    for name, pool in sorted(book.pools.items()):
        if not want.allows(name):
            continue
        if name not in allowed:
            found.reasons.append((name, f"the configuration does not let {model} run there"))
        elif state.fleet.pools.get(name, False):
            found.reasons.append((name, "draining"))
        elif pool.reachable:
            _ask(state, found, pool, model)
        else:
            _ask_absent(state, found, pool, model)
    found.fits.sort(key=lambda fit: _rank(state, fit))
    return found


def _rank(state: State, fit: Fit) -> tuple[int, int, int, str]:
    """Fewer failures, then a better backend, then more room left, then the name."""
    trouble = fit.pool.trouble.get(fit.model)
    places = () if fit.pool.facts is None else fit.pool.facts.places
    left = state.book.free_bytes(fit.pool, fit.place.bank) - fit.need_bytes
    return (0 if trouble is None else trouble.count, places.index(fit.place), -left, fit.pool.id)


def _ask_absent(state: State, found: Offers, pool: Pool, model: ModelId) -> None:
    """A pool that does not answer: it may sleep, be new to us, or be down."""
    reason = pool.reason or "does not answer"
    if pool.heard_at is None:
        found.hopeful = True
    elif pool.facts is not None and pool.model(model) is None:
        reason = _missing(pool, model)
    elif pool.waking_since is not None:
        found.hopeful = True
        reason = f"waking for {state.now - pool.waking_since:.0f} s"
    elif pool.wakeable and state.now >= pool.wake_again_at:
        found.asleep.append(pool)
        reason = "asleep"
    else:
        # It had the model: when it is back, so is hope. A client that cannot wait so long has its queue timeout.
        found.hopeful = found.hopeful or pool.facts is not None
    found.reasons.append((pool.id, reason))


def _missing(pool: Pool, model: ModelId) -> str:
    host = "" if pool.id == "local" else f" --host {pool.id}"
    return f"{model} is not downloaded there (run: llorch pool models download {model}{host})"


def _ask(state: State, found: Offers, pool: Pool, model: ModelId) -> None:
    there = pool.model(model)
    trouble = pool.trouble.get(model)
    assert pool.facts is not None
    if there is None:
        found.reasons.append((pool.id, _missing(pool, model)))
    elif not pool.facts.places:
        found.reasons.append((pool.id, "no backend works there"))
    elif trouble is not None and trouble.until > state.now:
        found.hopeful = True
        wait_s = trouble.until - state.now
        found.reasons.append((pool.id, f"{trouble.reason}; may be tried again in {wait_s:.1f} s"))
    elif state.book.busy(pool.id):
        found.hopeful = True
        found.reasons.append((pool.id, "it loads or unloads another model"))
    else:
        _weigh(state, found, pool, there)


def _weigh(state: State, found: Offers, pool: Pool, there: ModelThere) -> None:
    """Is there memory for it, on the best backend that has it?"""
    assert pool.facts is not None
    totals = {bank.name: bank.total_bytes for bank in pool.facts.banks}
    lacks = []
    for place in pool.facts.places:
        need = state.book.need_bytes(there, place.backend)
        fit = Fit(pool, there.model, place, need)
        free = state.book.free_bytes(pool, place.bank)
        if need <= free:
            found.fits.append(fit)
            return
        total = totals.get(place.bank, 0)
        if need <= total:
            found.crowded.append(fit)
        lacks.append(f"{place.backend} needs {_mib(need)} MiB, {_mib(max(0, free))} of {_mib(total)} are free")
    found.short = True
    found.reasons.append((pool.id, "; ".join(lacks)))


def _mib(size_bytes: int) -> int:
    return round(size_bytes / MIB)


def unmet(state: State) -> dict[Want, list[Shape]]:
    """What offered jobs want and no ready worker gives, with the shapes that want it. Pins to workers stay out."""
    wants: dict[Want, list[Shape]] = {}
    for shape in state.queue.shapes():
        if shape.pin_worker is None:
            wants.setdefault(Want.of(shape), []).append(shape)
    return {want: shapes for want, shapes in wants.items() if not covered(state.fleet, want)}


def read_again(state: State, pool: Pool) -> None:
    """Read a pool's facts unless that was done, or asked for, a moment ago."""
    times = [at for at in (pool.heard_at, pool.asked_at) if at is not None]
    if not times or state.now >= max(times) + state.book.settings.facts_old_s:
        pool.asked_at = state.now
        state.do(ReadPool(pool.id))
