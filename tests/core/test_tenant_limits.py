"""What a tenant may take: rate, models, jobs waiting and running, tokens a day; and what it is booked for."""

from __future__ import annotations

from typing import Any

import pytest
from brain_given import DEMO, Story, a_job, dispatched, finished, refusal, with_worker
from hypothesis import given, settings
from hypothesis import strategies as st

from llorch.base.ids import JobId, ModelId, TenantId, WorkerId
from llorch.core.accounts import RateGate
from llorch.core.effects import Accept, Decision, Effect, Persist, Refuse
from llorch.core.events import AttemptEnded, JobSubmitted, Restarted, TenantsRead, WorkerDrainRequested
from llorch.core.job import Failure, FailureKind, Result
from llorch.core.tenant import DAY_S, TenantLimits, UsageRecord

ALICE, BOB = TenantId("alice"), TenantId("bob")


def limited(**limits: Any) -> Story:
    """A story with a worker of four slots in which alice has these limits."""
    story = Story()
    story.worker(slots_total=4)
    story.tell(TenantsRead({ALICE: TenantLimits(**limits)}))
    return story


def usages(effects: list[Effect]) -> list[UsageRecord]:
    return [e.record for e in effects if isinstance(e, Persist) and isinstance(e.record, UsageRecord)]


def test_requests_a_second_are_bounded_exactly() -> None:
    """A burst of max(1, rate) passes; the next is told the exact wait, and passes after it but not before."""
    story = limited(requests_per_s=0.5)
    story.submit("j1", tenant=ALICE)
    refused = refusal(story.submit("j2", tenant=ALICE))
    assert (refused.code, refused.retry_after_s) == ("RATE_LIMITED", 2.0)
    story.now += 1.9
    assert refusal(story.submit("j3", tenant=ALICE)).retry_after_s == pytest.approx(0.1)
    story.now += 0.1
    assert dispatched(story.submit("j4", tenant=ALICE)) == [("j4", "w1")]
    assert dispatched(story.submit("j5", tenant=BOB)) == [("j5", "w1")]


@settings(max_examples=100, deadline=None)
@given(rate=st.floats(0.01, 50), pauses=st.lists(st.floats(0, 3), max_size=60))
def test_no_window_holds_more_requests_than_its_rate_and_one_burst(rate: float, pauses: list[float]) -> None:
    """In t seconds at most burst + rate * t requests pass; who waits as long as told always passes."""
    gate, now, passed = RateGate(), 0.0, 0
    burst = max(1, -int(-rate // 1))
    for pause in pauses:
        now += pause
        wait_s = gate.take(rate, now)
        passed += wait_s == 0.0
        assert passed <= burst + rate * now + 1e-6
        if wait_s:
            now += wait_s
            assert gate.take(rate, now) == 0.0
            passed += 1


def test_a_repeated_submission_costs_no_request() -> None:
    """The answer with an earlier job of the same idempotency key is not counted."""
    story = limited(requests_per_s=1.0)
    story.submit("j1", tenant=ALICE, idempotency_key="k")
    assert [type(e).__name__ for e in story.submit("j2", tenant=ALICE, idempotency_key="k")] == ["Duplicate"]


def test_a_tenant_uses_only_its_models() -> None:
    """Another model is refused as not to be found; a job that names none goes to one the key may use."""
    story = limited(models=(ModelId("other"),))
    refused = refusal(story.submit("j1", tenant=ALICE))
    assert refused.code == "MODEL_NOT_FOUND" and "may not use" in refused.message
    assert dispatched(story.submit("j2", tenant=ALICE, model=None)) == []
    assert dispatched(story.worker("w2", model=ModelId("other"))) == [("j2", "w2")]


def test_a_tenant_at_its_limit_is_parked_until_a_job_of_it_ends() -> None:
    """Its next job waits beside a free slot, others pass; any end, a failed attempt too, lets one more go."""
    story = limited(running_max=2, queued_max=1)
    for name in ("j1", "j2", "j3"):
        story.submit(name, tenant=ALICE)
    assert story.brain.usage(ALICE)[2:4] == (2, 1)
    assert refusal(story.submit("j4", tenant=ALICE)).code == "QUOTA_EXCEEDED"
    assert dispatched(story.submit("j5", tenant=BOB)) == [("j5", "w1")]
    assert dispatched(story.end("j1")) == [("j3", "w1")]
    assert dispatched(story.submit("j6", tenant=ALICE)) == []
    assert dispatched(story.fail("j2", failure=Failure(FailureKind.STALLED))) == [("j6", "w1")]


def test_an_unparked_tenant_uses_idle_workers() -> None:
    """When its running job ends on a draining worker, its next one goes to another that was idle all the time."""
    story = limited(running_max=1)
    story.submit("j1", tenant=ALICE)
    story.submit("j2", tenant=ALICE)
    story.tell(WorkerDrainRequested(WorkerId("w1")))
    assert dispatched(story.worker("w2")) == []
    assert dispatched(story.end("j1")) == [("j2", "w2")]


def test_a_wait_for_ones_own_jobs_is_explained_once() -> None:
    """`explain` tells a parked job how many of how many are running, one time."""
    story = limited(running_max=1)
    effects = [e for name in ("j1", "j2", "j3") for e in story.submit(name, tenant=ALICE)]
    effects += story.end("j1")
    notes = [e.record for e in effects if isinstance(e, Persist) and isinstance(e.record, Decision)]
    told = [note.job_id for note in notes if note.note == "tenant alice has 1 of 1 jobs running"]
    assert sorted(told) == ["j2", "j3"]


def test_every_ending_with_a_result_is_booked() -> None:
    """Prompt and generated tokens add up by tenant and day; a failure without tokens is not booked."""
    story = with_worker()
    story.submit("j1")
    [record] = usages(story.tell(AttemptEnded(JobId("j1"), 1, Result("EOS", 7, prompt_tokens=5))))
    assert record == UsageRecord(a_job().tenant, 0, jobs=1, prompt_tokens=5, tokens_out=7)
    story.submit("j2", timeout_s=1.0, model=ModelId("other"))
    assert usages(story.wait(2.0)) == []
    story.now = DAY_S + 5
    story.worker()
    story.submit("j3", prompt_tokens=4)
    assert usages(story.end("j3")) == [UsageRecord(a_job().tenant, 1, 1, 4, 3)]


def test_usage_survives_a_restart() -> None:
    """What was used today counts after a restart; what was used yesterday does not."""
    story = limited(tokens_per_day=100)
    story.now = 3 * DAY_S
    stored = (UsageRecord(ALICE, 2, 1, 500, 500), UsageRecord(ALICE, 3, 1, 30, 30))
    story.tell(Restarted((), (), (), {}, usage=stored))
    assert story.brain.usage(ALICE).today == stored[1]
    refused = refusal(story.submit("j1", tenant=ALICE, prompt_tokens=21, max_tokens=20))
    assert refused.code == "QUOTA_EXCEEDED" and refused.retry_after_s == 120.0
    assert any(isinstance(e, Accept) for e in story.submit("j2", tenant=ALICE, prompt_tokens=20, max_tokens=20))


Steps = st.lists(
    st.tuples(st.sampled_from(["submit", "end", "fail", "cancel", "day"]), st.integers(0, 60)), max_size=60
)


@settings(max_examples=60, deadline=None)
@given(steps=Steps, quota=st.integers(10, 400))
def test_the_quota_of_a_day_is_never_exceeded(steps: list[tuple[str, int]], quota: int) -> None:
    """Whatever comes, ends, fails, is cancelled: no day's booked tokens are more than the quota, and what is reserved
    is gone with the last job."""
    story = limited(tokens_per_day=quota, running_max=3)
    effects: list[Effect] = []
    limits: dict[JobId, tuple[int, int]] = {}
    for number, (what, amount) in enumerate(steps):
        live = sorted(job_id for job_id in limits if story.brain.job(job_id) is not None)
        if what == "submit":
            name = JobId(f"x{number}")
            limits[name] = (amount, 1 + amount // 2)
            spec = a_job(name, tenant=ALICE, prompt_tokens=amount, max_tokens=1 + amount // 2)
            effects += story.tell(JobSubmitted(spec))
        elif what == "day":
            story.now += DAY_S * amount / 60
            effects += story.worker(slots_total=4)
        elif live:
            job_id = live[amount % len(live)]
            record = story.brain.job(job_id)
            assert record is not None
            prompt, most = limits[job_id]
            if what == "end":
                result = Result("EOS", most, prompt_tokens=prompt)
                effects += story.tell(AttemptEnded(job_id, record.attempts, result))
            elif what == "fail":
                effects += story.fail(job_id, record.attempts, Failure(FailureKind.STALLED), amount % (most + 1))
            else:
                effects += story.cancel(job_id)
    for job_id in list(limits):
        effects += story.cancel(job_id)
    effects += story.wait(20.0)
    for record in usages(effects):
        assert record.prompt_tokens + record.tokens_out <= quota
    answered = sum(isinstance(e, Accept) for e in effects)
    assert answered + sum(isinstance(e, Refuse) for e in effects) == len(limits)
    assert len(finished(effects)) == answered
    assert story.brain.usage(ALICE)[2:] == (0, 0, 0)


def test_limits_of_the_unnamed_are_the_default_ones() -> None:
    """Who has no limits of its own has the default ones, from the moment they are read."""
    story = with_worker()
    story.tell(TenantsRead({ALICE: TenantLimits()}, TenantLimits(models=())))
    assert refusal(story.submit("j1", tenant=BOB)).code == "MODEL_NOT_FOUND"
    assert refusal(story.submit("j2", tenant=BOB, model=None)).code == "MODEL_NOT_FOUND"
    assert dispatched(story.submit("j3", tenant=ALICE, model=DEMO)) == [("j3", "w1")]
    assert story.brain.tenants() == (ALICE, BOB)
