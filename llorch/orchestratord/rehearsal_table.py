"""Accounts of rehearsals side by side: as a table for people, as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from llorch.base.terminal import aligned
from llorch.core.figures import Account, Figures, Group

HEADS = ("CLASS", "TENANT", "POLICY", "JOBS", "DONE", "REFUSED", "FAILED", "LEFT")
TIMES = ("WAIT s p50", "p95", "p99", "max", "TTFT s p50", "p95", "TOK/S", "KEPT", "SWAPS", "EVICTED")


@dataclass(frozen=True, slots=True)
class Column:
    """One of the things compared: `recorded`, `old`, `new`."""

    title: str
    policy: str
    account: Account


def table(columns: Sequence[Column]) -> str:
    """Groups in order, each with a row for every column; the sum of all comes last."""
    rows: list[tuple[str, ...]] = [HEADS + TIMES]
    groups = list(dict.fromkeys(group for column in columns for group in column.account.groups))
    for group in sorted(_telling(groups), key=lambda group: group.priority is None):
        for place, column in enumerate(columns):
            if (figures := column.account.groups.get(group)) is not None:
                rows.append((*_name(group, place), column.title, *_cells(figures, column.account)))
    return "".join(line + "\n" for line in aligned(rows, left=3))


def _telling(groups: Sequence[Group]) -> list[Group]:
    """Without the sums of only one tenant, or of only one class: they would repeat what stands there."""
    tenants = {
        g.priority: sum(other.priority is g.priority and other.tenant is not None for other in groups) for g in groups
    }
    alone = sum(group.tenant is not None for group in groups) == 1
    return [
        group
        for group in groups
        if group.tenant is not None
        or (group.priority is not None and tenants[group.priority] > 1)
        or (group.priority is None and not alone)
    ]


def _name(group: Group, place: int) -> tuple[str, str]:
    if place > 0:
        return "", ""
    return "all" if group.priority is None else group.priority.value, group.tenant or "all"


def _cells(figures: Figures, account: Account) -> tuple[str, ...]:
    wait, ttft, outcomes = figures.wait_s, figures.ttft_s, figures.outcomes
    turns = figures.session_kept + figures.session_moved
    return (
        str(figures.jobs),
        str(outcomes["completed"]),
        str(outcomes["refused"]),
        str(outcomes["failed"] + outcomes["cancelled"]),
        str(outcomes["unfinished"]),
        *(_seconds(value) for value in (wait.p50, wait.p95, wait.p99, wait.max, ttft.p50, ttft.p95)),
        f"{figures.tokens_per_s:.1f}",
        f"{100 * figures.session_kept / turns:.0f} %" if turns else "-",
        str(account.swaps),
        str(account.evictions),
    )


def _seconds(value: float | None) -> str:
    """Three figures are enough to compare by."""
    if value is None:
        return "-"
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def summary(columns: Sequence[Column]) -> str:
    """One line of `key=value`: what a script looks for first."""
    words = [f"jobs={columns[0].account.all.jobs}"]
    for column in columns:
        figures, title = column.account.all, column.title
        words.append(f"{title}_wait_p50_s={_plain(figures.wait_s.p50)}")
        words.append(f"{title}_wait_p95_s={_plain(figures.wait_s.p95)}")
        words.append(f"{title}_wait_max_s={_plain(figures.wait_s.max)}")
        words.append(f"{title}_tokens_per_s={figures.tokens_per_s:.2f}")
        words.append(f"{title}_refused={figures.outcomes['refused']}")
        words.append(f"{title}_fallbacks={sum(column.account.policy_use.fallbacks.values())}")
    return " ".join(words)


def _plain(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def remarks(columns: Sequence[Column]) -> list[str]:
    """What a reader must know of the figures: codes, fallbacks, a rehearsal that was cut off."""
    lines = []
    for column in columns:
        account, title = column.account, column.title
        for what, codes in (("refused", account.all.refused), ("failed", account.all.failed)):
            if codes:
                lines.append(f"{title}: {what}: {_counts(codes)}")
        if account.policy_use.asked:
            lines.append(f"{title}: asked: {_counts(account.policy_use.asked)}")
        if account.policy_use.fallbacks:
            lines.append(f"{title}: built-in answers instead: {_counts(account.policy_use.fallbacks)}")
        if account.cut:
            lines.append(f"{title}: cut off after {account.turns} turns; the figures are of what was over by then")
    return lines


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def as_json(columns: Sequence[Column], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, with `facts` of the scene; durations are seconds."""
    return {**facts, "policies": [_column(column) for column in columns]}


def _column(column: Column) -> dict[str, Any]:
    plain = asdict(replace(column.account, groups={}))
    del plain["groups"]
    groups = [
        {
            "priority": None if group.priority is None else group.priority.value,
            "tenant": group.tenant,
            **asdict(figures),
        }
        for group, figures in column.account.groups.items()
    ]
    return {"title": column.title, "policy": column.policy, **plain, "groups": groups}
