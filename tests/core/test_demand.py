"""Loading on demand, one rule at a time; the stories in tests/transcripts tell the rest."""

from __future__ import annotations

from typing import Any

from brain_given import Story, a_worker
from hypothesis import given, settings
from hypothesis import strategies as some

from llorch.base.ids import JobId, ModelId, PoolId, WorkerId
from llorch.core import events as happened
from llorch.core.demand_settings import MIB, DemandRead, DemandSettings, ModelLimits
from llorch.core.effects import Effect, Finish, ReadPool, SpawnCause, SpawnWorker, StopCause, StopWorker
from llorch.core.pool_facts import RAM, Bank, ModelThere, Place, PoolRead, WorkerThere
from llorch.core.worker import Load, WorkerState

LOCAL = PoolId("local")
MODELS = {ModelId("demo"): 400, ModelId("other"): 300, ModelId("third"): 200}
SETTINGS = DemandSettings(residency_min_s=0.0)
GPU = (Place("cuda", 0, "gpu0"), Place("cpu", None, RAM))


class Pools(Story):
    """A brain that loads on demand, and pools that do what they are told at once when asked to."""

    def __init__(self, limits: dict[ModelId, ModelLimits] | None = None, total: int = 1000) -> None:
        super().__init__()
        self.total = total
        self.running: dict[WorkerId, ModelId] = {}
        self.tell(DemandRead(SETTINGS, limits or {}, ModelLimits(ttl_s=100.0), (LOCAL,)))

    def facts(self, **changes: Any) -> list[Effect]:
        used = sum(MODELS[model] for model in self.running.values())
        given: dict[str, Any] = {
            "banks": (Bank(RAM, self.total * MIB, (self.total - used) * MIB),),
            "places": (Place("cpu", None, RAM),),
            "models": tuple(ModelThere(model, 0, size * MIB) for model, size in MODELS.items()),
            "workers": tuple(WorkerThere(name, model, "cpu") for name, model in self.running.items()),
        }
        return self.tell(PoolRead(LOCAL, **{**given, **changes}))

    def up(self, spawn: SpawnWorker) -> list[Effect]:
        """The worker of a spawn is there."""
        self.running[spawn.worker_id] = spawn.model
        effects = self.worker(spawn.worker_id, model=spawn.model, pool=PoolId("127.0.0.1"))
        return effects + self.tell(happened.SpawnReady(spawn.worker_id)) + self.facts()

    def down(self, stop: StopWorker) -> list[Effect]:
        self.running.pop(stop.worker_id, None)
        return self.tell(happened.WorkerStopped(stop.worker_id)) + self.facts()

    def beat(self) -> list[Effect]:
        return [e for name in self.running for e in self.tell(happened.HeartbeatReceived(name, Load()))]


def spawns(effects: list[Effect]) -> list[SpawnWorker]:
    return [effect for effect in effects if isinstance(effect, SpawnWorker)]


def stops(effects: list[Effect]) -> list[StopWorker]:
    return [effect for effect in effects if isinstance(effect, StopWorker)]


def test_nothing_is_loaded_unless_it_is_switched_on() -> None:
    """Without settings a job waits for a worker as ever, whatever the pools have."""
    story = Pools()
    story.tell(DemandRead(None))
    story.facts()
    assert not spawns(story.submit()) and not spawns(story.wait(100.0))


def test_a_gpu_is_preferred_to_the_processor_and_the_processor_to_nothing() -> None:
    """The best backend with room is taken."""
    for gpu_free, expected in ((500, "cuda"), (300, "cpu")):
        story = Pools()
        banks = (Bank("gpu0", 800 * MIB, gpu_free * MIB), Bank(RAM, 1000 * MIB, 900 * MIB))
        story.facts(banks=banks, places=GPU)
        [spawn] = spawns(story.submit())
        assert (spawn.backend, spawn.gpu) == (expected, 0 if expected == "cuda" else None)


def test_a_size_that_was_never_measured_is_estimated_with_a_margin() -> None:
    """File size times a factor plus what the program takes: 600 MiB of files do not go into 1000 MiB."""
    story = Pools()
    there = (ModelThere(ModelId("demo"), 600 * MIB),)
    assert not spawns(story.facts(models=there) + story.submit())
    assert spawns(story.facts(models=(ModelThere(ModelId("demo"), 500 * MIB),)))


def test_many_jobs_of_one_model_load_it_once() -> None:
    """A hundred jobs that wait for one load give one command."""
    story = Pools()
    story.facts()
    effects = [effect for number in range(100) for effect in story.submit(f"j{number}")]
    assert len(spawns(effects)) == 1 and not spawns(story.wait(30.0))


def test_the_job_that_waits_longest_is_loaded_for_first() -> None:
    """One command at a time on a pool; who waits longer goes first."""
    story = Pools()
    story.facts()
    [first] = spawns(story.submit("j1"))
    story.now += 1
    story.submit("j2", model=ModelId("other"))
    story.now += 1
    story.submit("j3", model=ModelId("third"))
    [second] = spawns(story.up(first))
    assert second.model == "other"


def test_a_worker_that_grew_counts_with_what_it_takes_now() -> None:
    """A heartbeat that says more than was believed leaves less room, also for the next of its kind."""
    story = Pools()
    story.facts()
    [spawn] = spawns(story.submit())
    story.up(spawn)
    story.tell(happened.HeartbeatReceived(spawn.worker_id, Load(vram_bytes=800 * MIB)))
    assert not spawns(story.submit("j2", model=ModelId("other")))


def test_a_foreign_worker_is_never_stopped() -> None:
    """A worker that autospawn did not start stays, idle or in the way, however long."""
    story = Pools()
    story.worker("mine", pool=LOCAL)
    story.running[WorkerId("mine")] = ModelId("demo")
    story.facts(banks=(Bank(RAM, 500 * MIB, 100 * MIB),))
    effects = story.submit("j1", model=ModelId("other"))
    for _ in range(200):
        effects += story.wait(1.0) + story.beat()
    assert not stops(effects)


def test_a_job_on_the_way_to_an_idle_worker_saves_it() -> None:
    """A worker that has been condemned is stopped when its last job is over, not before."""
    story = Pools(total=450)
    story.facts()
    [spawn] = spawns(story.submit("j1"))
    story.up(spawn)
    effects = story.submit("j2", model=ModelId("other"))
    for _ in range(70):
        effects += story.wait(1.0) + story.beat()
    assert not stops(effects), "j1 is live"
    effects = story.end("j1")
    assert [stop.cause for stop in stops(effects)] == [StopCause.ROOM]


def two_of_a_pinned_model(total: int) -> Pools:
    """Two workers of ours serve `demo`, of which the last one stays."""
    story = Pools({ModelId("demo"): ModelLimits(replicas_max=2, ttl_s=50.0, pinned=True)}, total)
    for name in ("auto-0-a", "auto-0-b"):
        story.worker(name, pool=LOCAL)
        story.running[WorkerId(name)] = ModelId("demo")
    story.facts()
    return story


def one_of_them_barred() -> tuple[Pools, WorkerId]:
    """Both work, and a third model has waited for so long that one of them is to go as soon as it is empty."""
    story = two_of_a_pinned_model(850)
    for number, model in enumerate(("demo", "demo", "third")):
        story.submit(f"j{number}", model=ModelId(model))
    for _ in range(70):
        assert not stops(story.wait(1.0) + story.beat())
    [barred] = [worker.spec.worker_id for worker in story.brain.workers() if worker.state is WorkerState.DRAINING]
    return story, barred


def test_a_second_worker_of_a_pinned_model_goes_and_the_last_one_stays() -> None:
    """A pin keeps a model loaded, not every worker that a backlog once added."""
    story = two_of_a_pinned_model(1000)
    effects: list[Effect] = []
    for _ in range(200):
        told = story.wait(1.0) + story.beat()
        effects += told + [effect for stop in stops(told) for effect in story.down(stop)]
    assert [stop.cause for stop in stops(effects)] == [StopCause.IDLE]
    assert len(story.running) == 1


def test_who_was_to_go_stays_when_the_other_one_dies_first() -> None:
    """A condemned worker with a job is pardoned once it has become the last of a pinned model; it takes jobs again."""
    story, barred = one_of_them_barred()
    story.running = {barred: ModelId("demo")}
    effects = story.facts()
    for _ in range(10):
        effects += story.wait(1.0) + story.beat()
    assert not stops(effects)
    assert story.brain.worker(barred).state is WorkerState.READY  # type: ignore[union-attr]


def test_an_operators_drain_holds_though_the_worker_was_to_go() -> None:
    """A worker that is barred already is drained all the same when an operator says so, and is not pardoned then."""
    story, barred = one_of_them_barred()
    assert story.tell(happened.WorkerDrainRequested(barred, "op"))
    story.running = {barred: ModelId("demo")}
    story.facts()
    for _ in range(10):
        story.wait(1.0)
        story.beat()
    assert story.brain.worker(barred).state is WorkerState.DRAINING  # type: ignore[union-attr]


def test_a_failed_stop_is_tried_again_and_nothing_is_loaded_meanwhile() -> None:
    """Room that could not be made is not given away."""
    story = Pools(total=450)
    story.facts()
    [spawn] = spawns(story.submit("j1"))
    story.up(spawn)
    story.end("j1")
    [stop] = stops(story.submit("j2", model=ModelId("other")))
    effects = story.tell(happened.StopFailed(stop.worker_id, "no answer")) + story.facts()
    assert not stops(effects) and not spawns(effects)
    later = []
    for _ in range(12):
        later += story.wait(1.0) + story.beat()
    [again] = stops(later)
    assert spawns(story.down(again))[0].swaps


def test_a_spawn_of_which_nothing_is_heard_is_given_up() -> None:
    """The actuator may die with a command: after its limit and a minute it counts as failed."""
    story = Pools()
    story.facts()
    [spawn] = spawns(story.submit(attached=True))
    later = story.wait(spawn.limit_s + 90.0)
    assert any(isinstance(effect, Finish) for effect in later) or spawns(later)


def test_an_operators_spawn_is_counted_and_kept() -> None:
    """By hand: no limit of replicas, no time to live, but its memory counts."""
    story = Pools()
    story.facts()
    name = WorkerId("by-hand")
    [spawn] = spawns(story.tell(happened.SpawnRequested(name, LOCAL, ModelId("demo"), "cpu")))
    assert spawn.cause is SpawnCause.OPERATOR
    story.up(spawn)
    effects: list[Effect] = []
    for _ in range(200):
        effects += story.wait(1.0) + story.beat()
    assert not stops(effects)
    assert story.brain.worker(name).spec.pool == LOCAL  # type: ignore[union-attr]


def test_a_lost_spawned_worker_is_looked_for() -> None:
    """Silence may be the network: the pool is asked before anything is concluded."""
    story = Pools()
    story.facts()
    [spawn] = spawns(story.submit())
    story.up(spawn)
    story.end()
    assert any(isinstance(effect, ReadPool) for effect in story.wait(20.0))


def test_draining_loads_nothing() -> None:
    """An orchestratord that goes away begins nothing."""
    story = Pools()
    story.facts()
    [spawn] = spawns(story.submit())
    story.tell(happened.DrainStarted())
    story.tell(happened.SpawnFailed(spawn.worker_id, "HOST_ERROR", "cancelled"))
    assert not spawns(story.facts()) and not spawns(story.wait(60.0))


@settings(max_examples=150, deadline=None)
@given(
    some.lists(
        some.tuples(some.sampled_from(["job", "up", "fail", "end", "down", "wait"]), some.sampled_from(sorted(MODELS))),
        max_size=60,
    )
)
def test_memory_is_never_promised_twice(steps: list[tuple[str, ModelId]]) -> None:
    """Whatever comes in whatever order: what runs and what is loaded fits, and no live job's worker is stopped."""
    story = Pools(total=750)
    story.facts()
    open_spawns: list[SpawnWorker] = []
    open_stops: list[StopWorker] = []
    for number, (step, model) in enumerate(steps):
        effects: list[Effect] = []
        if step == "job":
            effects = story.submit(f"j{number}", model=model)
        elif step == "up" and open_spawns:
            effects = story.up(open_spawns.pop(0))
        elif step == "fail" and open_spawns:
            failed = open_spawns.pop(0)
            effects = story.tell(happened.SpawnFailed(failed.worker_id, "HOST_ERROR", "told")) + story.facts()
        elif step == "down" and open_stops:
            effects = story.down(open_stops.pop(0))
        elif step == "end":
            live = [JobId(f"j{n}") for n in range(number)]
            on_worker = [n for n in live if (job := story.brain.job(n)) and job.state.value == "dispatched"]
            effects = story.end(on_worker[0], story.brain.job(on_worker[0]).attempts) if on_worker else []  # type: ignore[union-attr]
        elif step == "wait":
            effects = story.wait(2.0) + story.beat()
        open_spawns += spawns(effects)
        open_stops += stops(effects)
        taken = [*story.running.values(), *(spawn.model for spawn in open_spawns)]
        assert sum(MODELS[name] for name in taken) <= story.total
        for stop in stops(effects):
            record = story.brain.worker(stop.worker_id)
            assert record is None or record.slots_used == 0


def test_the_brain_says_who_it_means() -> None:
    """Ids of workers that autospawn starts are unlike any that people or pools choose, and never the same."""
    story = Pools(total=100_000)
    story.facts()
    names = set()
    for number in range(5):
        [spawn] = spawns(story.submit(f"j{number}", model=ModelId("demo"), attached=False))
        names.add(spawn.worker_id)
        story.tell(happened.SpawnFailed(spawn.worker_id, "HOST_ERROR", "told"))
        story.cancel(f"j{number}")
        story.wait(100.0)
        story.facts()
    assert len(names) == 5 and all(name.startswith("auto-0-") for name in names)
    assert a_worker().worker_id not in names
