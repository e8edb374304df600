"""Sessions and usage in the store: the newest record counts, restarts give it back, old days go."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llorch.base.ids import SessionId, TenantId
from llorch.core.effects import Record, SessionForgotten
from llorch.core.session import SessionLimits, SessionRecord
from llorch.core.tenant import DAY_S, UsageRecord
from llorch.store.store import FILE_NAME, Store

TODAY = 20_000
ALICE, BOB = TenantId("alice"), TenantId("bob")
SESSION = SessionRecord(SessionId("chat"), ALICE, SessionLimits(60.0, 1000, 2.5), TODAY * DAY_S, TODAY * DAY_S)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An open store."""
    opened = Store(tmp_path / FILE_NAME)
    yield opened
    opened.close()


def commit(store: Store, *records: Record) -> None:
    """Store the records, durably."""

    async def work() -> None:
        await store.commit(records)

    asyncio.run(work())


def test_the_newest_record_of_a_session_comes_back(store: Store) -> None:
    """Limits, turns and what was used, of this tenant's session; one of the same name is another tenant's own."""
    used = replace(SESSION, turns=3, tokens_used=120, time_used_s=1.5, used_at=SESSION.used_at + 9)
    other = replace(SESSION, tenant=BOB, limits=SessionLimits())
    commit(store, SESSION, other)
    commit(store, used)
    assert store.snapshot().sessions == (used, other)
    assert store.snapshot().newest_at == used.used_at
    commit(store, SessionForgotten(ALICE, SESSION.session_id))
    assert store.snapshot().sessions == (other,)


def test_a_restart_is_told_of_today_and_yesterday(store: Store) -> None:
    """The day is that of the clock, or of the newest stored time when the clock lags behind it."""
    days = [UsageRecord(ALICE, TODAY - back, jobs=back + 1, prompt_tokens=5, tokens_out=7) for back in range(4)]
    commit(store, *days, replace(days[0], jobs=9), SESSION)
    today = replace(days[0], jobs=9)
    assert store.snapshot().usage == (days[1], today)
    assert store.snapshot(now=(TODAY + 1) * DAY_S).usage == (today,)
    assert store.snapshot(now=(TODAY + 9) * DAY_S).usage == ()


def test_usage_is_read_by_tenant_and_by_day(store: Store) -> None:
    """From some day on, of one tenant or of all; days that have expired are gone."""
    rows = [UsageRecord(tenant, TODAY - back, jobs=1) for tenant in (ALICE, BOB) for back in (2, 1, 0)]
    commit(store, *rows)

    async def look() -> None:
        assert await store.usage(TODAY - 1) == [row for row in rows if row.day >= TODAY - 1]
        assert await store.usage(0, BOB) == [row for row in rows if row.tenant == BOB]
        await store.expire_usage(TODAY)
        assert await store.usage(0) == [row for row in rows if row.day == TODAY]

    asyncio.run(look())
