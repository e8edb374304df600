"""The production brain in a seeded world of faults, judged by independent checkers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from sim import story
from sim.violation import Violation
from sim.world import World

from llorch.core.brain import Brain, BrainSettings
from llorch.core.effects import Accept, Dispatch, Effect, Finish, Persist
from llorch.core.events import Event, JobNotStored, Restarted, TenantsRead
from llorch.core.job import JobRecord

CHUNKS = 10


def run(seed: int, make_brain: type[Brain] = Brain, fill: Callable[[World], None] = story.fill) -> World:
    """One history; a broken promise names the command that replays it."""
    world = World(seed, make_brain)
    fill(world)
    try:
        world.run()
    except AssertionError as broken:
        tail = "\n".join(world.history[-40:])
        raise Violation(f"{broken}\n{tail}\nreplay: python -m pytest tests/sim --seed {seed}") from broken
    return world


def seeds(config: pytest.Config) -> list[int]:
    one = config.getoption("--seed")
    return list(range(int(config.getoption("--seeds")))) if one is None else [int(one)]


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_history_keeps_every_promise(chunk: int, pytestconfig: pytest.Config) -> None:
    """One ending a job, no slot given twice, no gap in a stream, nothing accepted is lost, nobody waits for ever."""
    for seed in seeds(pytestconfig)[chunk::CHUNKS]:
        run(seed)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_loading_on_demand_keeps_every_promise(chunk: int, pytestconfig: pytest.Config) -> None:
    """No pool's memory is exceeded, no live job evicted, no pinned model unloaded; who could be served is served."""
    for seed in seeds(pytestconfig)[chunk::CHUNKS]:
        run(seed, fill=story.fill_with_pools)


def test_a_seed_replays_exactly() -> None:
    """The same seed gives the same history, word for word."""
    assert run(7).history == run(7).history


class Forgetful(Brain):
    """Does not commit the ending of every third job."""

    def decide(self, event: Event, now: float) -> list[Effect]:
        effects = super().decide(event, now)
        return [e for e in effects if not (isinstance(e, Persist) and _terminal(e) and _third(e.record))]


def _terminal(effect: Persist) -> bool:
    return isinstance(effect.record, JobRecord) and effect.record.state.terminal


def _third(record: object) -> bool:
    return isinstance(record, JobRecord) and record.sequence % 3 == 0


class Hasty(Brain):
    """Answers before it commits."""

    def decide(self, event: Event, now: float) -> list[Effect]:
        return sorted(super().decide(event, now), key=lambda effect: not isinstance(effect, Accept))


class Stutterer(Brain):
    """Finishes twice."""

    def decide(self, event: Event, now: float) -> list[Effect]:
        effects = super().decide(event, now)
        return effects + [effect for effect in effects if isinstance(effect, Finish)]


class Doubler(Brain):
    """Sends every job to a worker twice."""

    def decide(self, event: Event, now: float) -> list[Effect]:
        effects = super().decide(event, now)
        return effects + [
            Dispatch(
                e.job_id,
                e.attempt + 100,
                e.worker_id,
                e.url,
                e.early,
                e.first_token_timeout_s,
                e.stall_timeout_s,
                e.deadline_at,
            )
            for e in effects
            if isinstance(e, Dispatch)
        ]


class Sleeper(Brain):
    """Never wants to be woken."""

    def next_wakeup(self) -> float | None:
        return None


class Stubborn(Brain):
    """Keeps jobs that could not be stored."""

    def decide(self, event: Event, now: float) -> list[Effect]:
        return [] if isinstance(event, JobNotStored) else super().decide(event, now)


class Generous(Brain):
    """Knows no limits of tenants."""

    def decide(self, event: Event, now: float) -> list[Effect]:
        return super().decide(TenantsRead({}) if isinstance(event, TenantsRead) else event, now)


class Amnesiac(Brain):
    """Does not look at what was used before the restart."""

    def decide(self, event: Event, now: float) -> list[Effect]:
        return super().decide(replace(event, usage=()) if isinstance(event, Restarted) else event, now)


BROKEN = [Forgetful, Hasty, Stutterer, Doubler, Sleeper, Stubborn, Generous, Amnesiac]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_brain_is_found_and_the_line_that_replays_it_is_printed(broken: type[Brain]) -> None:
    """The judges are not asleep: each broken promise is found within a few histories, with its replay line."""
    with pytest.raises(Violation) as found:
        for seed in range(50):
            run(seed, broken)
    line = str(found.value).splitlines()[-1]
    assert line.startswith("replay: python -m pytest tests/sim --seed ")
    with pytest.raises(Violation):
        run(int(line.rsplit(" ", 1)[1]), broken)


def test_settings_of_the_world_are_small_enough_to_be_felt() -> None:
    """Queue capacity and leases are low, so that their limits are reached in short histories."""
    assert BrainSettings().queue_capacity > World(0, Brain).checkers.settings.queue_capacity
