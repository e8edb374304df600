"""What those who wait for a model that is being loaded are told: how far it is, and when it will be there."""

from __future__ import annotations

from typing import NamedTuple

from llorch.base.ids import ModelId
from llorch.core.effects import TellLoading
from llorch.core.fit import covered
from llorch.core.state import LiveJob, State
from llorch.core.want import Want


class Loading(NamedTuple):
    """`progress` is 0 to 1; `eta_s` None: not known yet."""

    model: ModelId
    progress: float
    eta_s: float | None


def of(state: State, job: LiveJob) -> Loading | None:
    """How the model of a waiting job is being loaded; None: it is not, or a ready worker has it already."""
    entry = state.queue.entry(job.id)
    if entry is None or (not state.book.tenancies and not state.book.wanting):
        return None
    want = Want.of(entry[1])
    if entry[1].pin_worker is not None or covered(state.fleet, want):
        return None
    coming = [tenancy for tenancy in state.book.loading(want.model) if want.allows(tenancy.pool)]
    if coming:
        first = max(coming, key=lambda tenancy: tenancy.progress)
        return Loading(first.model, first.progress, state.book.eta_s(first, state.now))
    return _waking(state, want)


def _waking(state: State, want: Want) -> Loading | None:
    """A pool that sleeps has to wake up first."""
    for name, pool in sorted(state.book.pools.items()):
        if pool.waking_since is not None and want.model is not None and want.allows(name):
            load_s = state.book.eta_for(want.model, name)
            eta_s = None
            if pool.wake_s.count and load_s is not None:
                eta_s = max(0.0, pool.waking_since + pool.wake_s.value - state.now) + load_s
            return Loading(want.model, 0.0, eta_s)
    return None


def tell(state: State, job: LiveJob) -> None:
    """Tell an attached client, when there is news; called at most once a second for each."""
    if not job.attached or job.record.started_at is not None:
        return
    found = of(state, job)
    if found is not None and (found.progress, found.eta_s) != job.loading_told:
        job.loading_told = (found.progress, found.eta_s)
        state.do(TellLoading(job.id, *found))
