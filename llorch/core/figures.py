"""What became of jobs, counted: waits, first tokens, refusals, per class and tenant. Same fates, same figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import ceil

from llorch.base.ids import TenantId, WorkerId
from llorch.core.job import JobSpec, Priority


class Outcome(Enum):
    """How a job ended; UNFINISHED: it had not when the figures were taken."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    UNFINISHED = "unfinished"


@dataclass(slots=True)
class Fate:
    """One job's way. Times are `now` values; `arrived_at` is its acceptance, if it was accepted."""

    spec: JobSpec
    arrived_at: float
    dispatched_at: float | None = None
    first_token_at: float | None = None
    ended_at: float | None = None
    outcome: Outcome = Outcome.UNFINISHED
    code: str | None = None
    tokens_out: int = 0
    attempts: int = 0
    worker_id: WorkerId | None = None
    session_kept: bool | None = None

    def waited_s(self, until: float) -> float | None:
        """From acceptance to the first dispatch, or as long as it waited in vain; None: it was not let in."""
        if self.outcome is Outcome.REFUSED:
            return None
        ends = (self.dispatched_at, self.ended_at, until)
        return max(0.0, next(at for at in ends if at is not None) - self.arrived_at)


@dataclass(frozen=True, slots=True)
class Spread:
    """Of some durations in seconds; all None when there is none."""

    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None

    @staticmethod
    def of(durations: Iterable[float]) -> Spread:
        ordered = sorted(durations)
        return Spread(*(_rank(ordered, share) for share in (0.5, 0.95, 0.99, 1.0)))


def _rank(ordered: Sequence[float], share: float) -> float | None:
    """The nearest rank: a value that did occur."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else None


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one group of jobs. `wait_s` counts those let in, `ttft_s` from acceptance; tokens/s over the whole span.

    `session_kept` and `session_moved` count first dispatches of jobs whose session had been on a worker before.
    """

    jobs: int
    outcomes: dict[str, int]
    failed: dict[str, int]
    refused: dict[str, int]
    wait_s: Spread
    ttft_s: Spread
    tokens_out: int
    tokens_per_s: float
    retries: int
    session_kept: int
    session_moved: int

    @staticmethod
    def of(fates: Sequence[Fate], until: float, span_s: float) -> Figures:
        tokens = sum(fate.tokens_out for fate in fates)
        return Figures(
            jobs=len(fates),
            outcomes={outcome.value: sum(fate.outcome is outcome for fate in fates) for outcome in Outcome},
            failed=_codes(fates, Outcome.FAILED),
            refused=_codes(fates, Outcome.REFUSED),
            wait_s=Spread.of(wait for fate in fates if (wait := fate.waited_s(until)) is not None),
            ttft_s=Spread.of(f.first_token_at - f.arrived_at for f in fates if f.first_token_at is not None),
            tokens_out=tokens,
            tokens_per_s=tokens / span_s if span_s > 0 else 0.0,
            retries=sum(max(0, fate.attempts - 1) for fate in fates),
            session_kept=sum(fate.session_kept is True for fate in fates),
            session_moved=sum(fate.session_kept is False for fate in fates),
        )


def _codes(fates: Sequence[Fate], outcome: Outcome) -> dict[str, int]:
    return dict(sorted(Counter(fate.code or "?" for fate in fates if fate.outcome is outcome).items()))


@dataclass(frozen=True, slots=True)
class Group:
    """Whose figures: of a class and a tenant; None: of all."""

    priority: Priority | None
    tenant: TenantId | None


@dataclass(frozen=True, slots=True)
class PolicyUse:
    """How often a script was asked, by hook, and how often it gave no answer that counts, by hook and reason."""

    asked: dict[str, int] = field(default_factory=dict)
    fallbacks: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Account:
    """Everything a rehearsal comes to. `span_s`: first arrival to last ending. `cut`: it was ended by its bound.

    `swaps` and `evictions` count effects that load or unload a model: none as long as nothing loads on demand.
    """

    groups: dict[Group, Figures]
    policy_use: PolicyUse
    span_s: float
    turns: int = 0
    cut: bool = False
    swaps: int = 0
    evictions: int = 0

    @property
    def all(self) -> Figures:
        """The figures of all jobs together."""
        return self.groups[Group(None, None)]


def grouped(fates: Sequence[Fate], until: float) -> tuple[dict[Group, Figures], float]:
    """Figures of all, per class, and per class and tenant; and the span in seconds. Classes in order of urgency."""
    span_s = span(fates, until)
    members: dict[Group, list[Fate]] = {Group(None, None): list(fates)}
    for priority in Priority:
        of_class = [fate for fate in fates if fate.spec.priority is priority]
        if of_class:
            members[Group(priority, None)] = of_class
        for tenant in sorted({fate.spec.tenant for fate in of_class}):
            members[Group(priority, tenant)] = [fate for fate in of_class if fate.spec.tenant == tenant]
    return {group: Figures.of(fates, until, span_s) for group, fates in members.items()}, span_s


def span(fates: Sequence[Fate], until: float) -> float:
    """Seconds from the first arrival to the last ending, or to `until` when a job has none."""
    if not fates:
        return 0.0
    ends = [until if fate.ended_at is None else fate.ended_at for fate in fates]
    return max(ends) - min(fate.arrived_at for fate in fates)
