"""A rehearsal: deterministic, every arrival ends once, and waits are those worked out by hand."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from core.brain_given import SETTINGS, a_job, a_worker

from llorch.base.ids import JobId, PoolId, SessionId, TenantId, WorkerId
from llorch.core.effects import Ask
from llorch.core.events import PolicyAnswered, PolicyFailed, PolicyLoaded, WorkerDrainRequested
from llorch.core.figures import Account, Figures, Group, Outcome, Spread
from llorch.core.hooks import Answer
from llorch.core.job import Failure, FailureKind, Priority
from llorch.core.policy import Hook, Rejection
from llorch.core.rehearsal import Progress, Reply, Scene, rehearse, run
from llorch.core.settings import BrainSettings
from llorch.core.staging import Arrival, Measured, Speed, StagedWorker

ALL = Group(None, None)
# One second to the first token, then ten tokens a second: 11 tokens take two seconds.
SPEED = Speed(ttft_s=1.0, tokens_per_s=10.0)


def worker(name: str = "w1", speed: Speed = SPEED, up_at: float = 0.0, **changes: Any) -> StagedWorker:
    """A worker with one slot that is there from the start."""
    down_at = changes.pop("down_at", None)
    return StagedWorker(a_worker(name, **changes), speed, up_at, down_at)


def arrival(at: float, name: str, tokens_out: int = 11, **changes: Any) -> Arrival:
    """A job of two seconds on a worker of the usual speed."""
    known = {
        key: changes.pop(key) for key in ("prompt_tokens", "measured", "cancel_after_s", "failure") if key in changes
    }
    return Arrival(at, a_job(name, **changes), tokens_out, **known)


def unasked(ask: Ask) -> Reply:
    """Nothing may be asked."""
    raise AssertionError(ask)


def play(scene: Scene, script: PolicyLoaded | None = None, answer: Any = unasked) -> Account:
    """The account of a scene."""
    return run(rehearse(scene, script), answer)


def account(workers: list[StagedWorker], arrivals: list[Arrival], **changes: Any) -> Account:
    """The account of these workers and arrivals under the built-in policy."""
    return play(Scene(tuple(workers), tuple(arrivals), changes.pop("settings", SETTINGS), **changes))


def totals(workers: list[StagedWorker], arrivals: list[Arrival], **changes: Any) -> Figures:
    """The figures of all jobs."""
    return account(workers, arrivals, **changes).all


def ended(figures: Figures) -> dict[str, int]:
    """Outcomes that occurred."""
    return {name: count for name, count in figures.outcomes.items() if count}


def test_jobs_wait_for_the_one_slot() -> None:
    """Three jobs of two seconds that come at once wait 0, 2 and 4 s, and see their first token a second later."""
    figures = totals([worker()], [arrival(10.0, name) for name in ("a", "b", "c")])
    assert ended(figures) == {"completed": 3}
    assert figures.wait_s == Spread(2.0, 4.0, 4.0, 4.0)
    assert figures.ttft_s == Spread(3.0, 5.0, 5.0, 5.0)
    assert (figures.tokens_out, figures.tokens_per_s) == (33, 33 / 6.0)


def test_more_workers_wait_less() -> None:
    """With a slot each nobody waits."""
    figures = totals([worker("w1"), worker("w2", slots_total=2)], [arrival(1.0, name) for name in ("a", "b", "c")])
    assert figures.wait_s.max == 0.0


def test_interactive_goes_before_batch() -> None:
    """Classes are told apart: the interactive job that came later waits less than the batch job before it."""
    jobs = [arrival(1.0, "a"), arrival(1.1, "b", priority=Priority.BATCH), arrival(1.2, "c")]
    groups = account([worker()], jobs).groups
    assert groups[Group(Priority.BATCH, None)].wait_s.max == pytest.approx(3.9)
    assert groups[Group(Priority.INTERACTIVE, None)].wait_s.max == pytest.approx(1.8)


def test_tenants_have_figures_of_their_own() -> None:
    """Per class and tenant, and their sum per class and of all."""
    jobs = [arrival(1.0, "a", tenant=TenantId("x")), arrival(1.0, "b", tenant=TenantId("y"))]
    groups = account([worker()], jobs).groups
    assert [group.tenant for group in groups] == [None, None, "x", "y"]
    assert groups[Group(Priority.INTERACTIVE, TenantId("y"))].wait_s.max == 2.0


def test_sequences_share_a_worker_that_has_a_limit() -> None:
    """Two sequences of 10 tokens at 10/s each on a worker of 10/s in all: twice the time from when both decode."""
    shared = worker(speed=Speed(0.0, 10.0, total_tokens_per_s=10.0), slots_total=2)
    alone = account([shared], [arrival(0.0, "a")]).span_s
    both = account([shared], [arrival(0.0, "a"), arrival(0.0, "b")]).span_s
    half = account([shared], [arrival(0.0, "a"), arrival(0.5, "b")]).span_s
    assert (alone, both) == (pytest.approx(1.0), pytest.approx(2.0))
    assert half == pytest.approx(2.0), "a: 0.5 alone, 1.0 shared; b: 1.0 shared, 0.5 alone"


def test_a_measured_job_takes_what_it_took() -> None:
    """On its own worker exactly that; on one of half the speed twice as long."""
    there = worker("w1", Speed(0.5, 20.0))
    slower = worker("w2", Speed(1.0, 10.0))
    job = arrival(0.0, "a", measured=Measured(WorkerId("w1"), 0.3, 4.0))
    assert account([there], [job]).span_s == pytest.approx(4.3)
    elsewhere = arrival(0.0, "a", measured=Measured(WorkerId("w1"), 0.3, 4.0), wishes=a_job().wishes)
    busy = arrival(0.0, "0", tokens_out=2000)
    both = account([there, slower], [busy, elsewhere])
    assert both.all.ttft_s.p50 == pytest.approx(0.5)
    assert both.all.ttft_s.max == pytest.approx(0.6)


def test_prompts_take_time_where_a_prefill_speed_is_known() -> None:
    """A hundred tokens at a hundred a second come on top of the time to the first token."""
    figures = totals([worker(speed=Speed(0.5, 10.0, None, 100.0))], [arrival(0.0, "a", prompt_tokens=100)])
    assert figures.ttft_s.max == pytest.approx(1.5)


def test_a_client_gives_up() -> None:
    """A cancelled job has the tokens that came before; one that was over by then, completed."""
    jobs = [arrival(0.0, "a", tokens_out=101, cancel_after_s=6.0), arrival(20.0, "b", cancel_after_s=6.0)]
    figures = totals([worker()], jobs)
    assert ended(figures) == {"completed": 1, "cancelled": 1}
    assert figures.tokens_out == 51 + 11


def test_a_job_that_fails_everywhere_fails_after_its_attempts() -> None:
    """The retry rule is the production one: five attempts, and the code is the worker's."""
    failing = arrival(0.0, "a", failure=Failure(FailureKind.FAILED, "INFERENCE_FAILED", "no"))
    figures = totals([worker()], [failing])
    assert figures.failed == {"INFERENCE_FAILED": 1}
    assert figures.retries == SETTINGS.attempts_max - 1


def test_a_job_that_waits_in_vain_counts_its_wait() -> None:
    """No worker ever: the queue timeout ends it, and its wait is in the figures."""
    figures = totals([], [arrival(0.0, "a")])
    assert figures.failed == {"QUEUE_TIMEOUT": 1}
    assert figures.wait_s.max == SETTINGS.queue_timeout_interactive_s


def test_what_never_ends_is_left_unfinished() -> None:
    """A batch job without any limit and without a worker: patience ends the rehearsal, not the job."""
    figures = totals([], [arrival(0.0, "a", priority=Priority.BATCH)], patience_s=50.0)
    assert ended(figures) == {"unfinished": 1}
    assert figures.wait_s.max is not None
    assert 50.0 <= figures.wait_s.max < 60.0


def test_a_bound_on_turns_cuts_it() -> None:
    """The account says so."""
    cut = account([worker()], [arrival(float(n), f"j{n}") for n in range(50)], turns_max=40)
    assert cut.cut
    assert sum(cut.all.outcomes.values()) == 50


def test_workers_come_and_go() -> None:
    """Before its first worker a job waits; one that drains finishes what it has."""
    first, later = worker("w1", down_at=5.0), worker("w2", up_at=8.0)
    figures = totals([first, later], [arrival(4.5, "a"), arrival(5.5, "b")])
    assert ended(figures) == {"completed": 2}
    assert figures.retries == 0
    assert figures.wait_s.max == pytest.approx(2.5)


def test_a_quiet_night_is_passed_over() -> None:
    """No job lives for a day: the workers are still there afterwards, and the day costs no turns."""
    night = account([worker()], [arrival(0.0, "a"), arrival(86_400.0, "b")])
    assert ended(night.all) == {"completed": 2}
    assert night.all.wait_s.max == 0.0
    assert night.turns < 60


def test_sessions_are_followed() -> None:
    """A turn on the worker of the turn before is kept, on another moved."""
    session = {"session_id": SessionId("s")}
    jobs = [arrival(0.0, "a", **session), arrival(10.0, "b", **session), arrival(10.1, "c", **session)]
    figures = totals([worker("w1"), worker("w2")], jobs)
    assert (figures.session_kept, figures.session_moved) == (1, 1)


def test_the_opening_is_told_first() -> None:
    """Whatever the caller wants the brain to know beforehand."""
    jobs = [arrival(1.0, "a", wishes=a_job().wishes)]
    figures = totals([worker(up_at=0.0)], jobs, opening=(WorkerDrainRequested(WorkerId("w1")),), pools=(PoolId("p"),))
    assert ended(figures) == {"completed": 1}, "there was no such worker yet"


def test_a_script_is_asked_and_changes_what_happens() -> None:
    """Its answers count as in production; those that do not count are told as fallbacks."""

    def answer(ask: Ask) -> Reply:
        task: Any = ask.arguments["task"]
        verdict: Answer = Rejection("not you") if task["tenant"] == "x" else None
        if task["job_id"] == "c":
            return PolicyFailed(ask.ask_id, "error")
        return PolicyAnswered(ask.ask_id, verdict)

    jobs = [arrival(0.0, "a", tenant=TenantId("x")), arrival(0.0, "b"), arrival(0.0, "c")]
    played = play(Scene((worker(),), tuple(jobs), SETTINGS), PolicyLoaded(frozenset({Hook.ADMIT}), "no-x.star"), answer)
    assert played.all.refused == {"ADMISSION_REJECTED": 1}
    assert ended(played.all) == {"completed": 2, "refused": 1}
    assert played.policy_use.asked == {"admit": 3}
    assert played.policy_use.fallbacks == {"admit: error": 1}


def test_progress_is_told() -> None:
    """A long rehearsal says how far it is; it needs no answer."""
    scene = Scene((worker(),), tuple(arrival(3.0 * n, f"j{n}") for n in range(900)), SETTINGS)
    told = []
    for said in rehearse(scene):
        assert isinstance(said, Progress)
        told.append(said.ended)
    assert told == sorted(told)
    assert 0 < told[0] < 900


def crowd(seed: int, count: int = 300) -> tuple[Scene, frozenset[JobId]]:
    """Jobs of every kind over a changing fleet that is too small for them."""
    rng = Random(seed)
    jobs = [
        arrival(
            rng.uniform(0.0, 200.0),
            f"j{number}",
            tokens_out=rng.randrange(0, 60),
            priority=rng.choice(list(Priority)),
            tenant=TenantId(rng.choice("xyz")),
            session_id=rng.choice((None, SessionId("s1"), SessionId("s2"))),
            timeout_s=rng.choice((None, None, 15.0)),
            prompt_tokens=rng.choice((None, None, 30, 30, 5000)),
            cancel_after_s=rng.choice((None, None, rng.uniform(0.0, 20.0))),
            failure=rng.choice((None, None, None, Failure(FailureKind.FAILED, "INFERENCE_FAILED", "no"))),
        )
        for number in range(count)
    ]
    fleet = [
        worker("w1", Speed(0.4, 20.0, 40.0), slots_total=4),
        worker("w2", slots_total=2, down_at=90.0),
        worker("w3", up_at=120.0),
    ]
    settings = BrainSettings(queue_capacity=3)
    return Scene(tuple(fleet), tuple(jobs), settings), frozenset(job.spec.job_id for job in jobs)


@pytest.mark.parametrize("seed", range(5))
def test_each_arrival_ends_once_and_the_same_way_again(seed: int) -> None:
    """Conservation and determinism: every job is in exactly one outcome, and a second time everything is equal."""
    scene, names = crowd(seed)
    first, second = play(scene), play(scene)
    assert first == second
    assert sum(first.all.outcomes.values()) == len(names) == first.all.jobs
    assert first.all.outcomes[Outcome.UNFINISHED.value] == 0
    assert first.all.outcomes["failed"] == sum(first.all.failed.values())
    assert first.all.outcomes["refused"] == sum(first.all.refused.values()) > 0


def test_waits_are_those_of_an_m_d_1_queue() -> None:
    """Poisson arrivals at half the capacity of one server of fixed time D wait D/2 on average (Pollaczek-Khinchine)."""
    rng, at, jobs = Random(1), 0.0, []
    for number in range(4000):
        at += rng.expovariate(0.25)
        jobs.append(arrival(at, f"j{number}"))
    fates_wait = totals([worker()], jobs).wait_s
    assert fates_wait.p50 is not None and fates_wait.p95 is not None
    # Of an M/D/1 queue at half load half the arrivals find the server idle; 95 % wait less than about 2 D.
    assert fates_wait.p50 == pytest.approx(0.0, abs=0.3)
    assert 2.5 < fates_wait.p95 < 5.0
