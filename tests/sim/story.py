"""What happens in a history: who comes, what they want, and what goes wrong, all drawn from the world's seed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from sim import tenancy
from sim.fake_worker import FakeWorker
from sim.pools import FakePool, FakePools
from sim.world import FAULTS_END_S, World

from llorch.base.ids import JobId, ModelId, PoolId, WorkerId
from llorch.core import events as happened
from llorch.core.demand_settings import ModelLimits
from llorch.core.job import JobSpec, OnDisconnect, Priority, Wishes
from llorch.core.policy import Hook
from llorch.core.worker import WorkerSpec

FAULTS = (
    "kill",
    "kill",
    "hang",
    "silent",
    "again",
    "twin",
    "move",
    "drain",
    "forget",
    "pool",
    "disk",
    "disk",
    "crash",
    "stop",
    "script",
    "tenants",
    "session",
)
MODELS = (ModelId("red"), ModelId("blue"))
GREEN = ModelId("green")


def fill(world: World) -> None:
    """Put workers, clients and faults on the agenda."""
    rng = world.rng
    for number in range(rng.randint(2, 4)):
        worker = FakeWorker(_spec(world, number))
        worker.liar = rng.random() < 0.2
        worker.refuses = rng.random() < 0.05
        world.workers.append(worker)
        world.later(rng.uniform(0.0, 2.0), partial(world.start, worker))
    rush_at = rng.uniform(0.0, FAULTS_END_S - 1.0)
    rush = rng.random() < 0.2
    for number in range(rng.randint(3, 12) + 15 * rush):
        at = rush_at + rng.random() if rush else rng.uniform(0.0, FAULTS_END_S)
        world.later(at, partial(_client, world, number))
    if rng.random() < 0.5:
        world.load_script(_hooks(world))
    if rng.random() < 0.5:
        world.read_tenants(tenancy.limits(world))
        for _ in range(rng.randint(0, 3)):
            world.later(rng.uniform(0.0, FAULTS_END_S), lambda: world.tell(tenancy.session_event(world)))
    for _ in range(rng.randint(0, 6)):
        world.later(rng.uniform(0.5, FAULTS_END_S), partial(_fault, world))
    world.later(FAULTS_END_S + 0.001, lambda: _mend(world))


def fill_with_pools(world: World) -> None:
    """Pools that load on demand, beside one worker at most that is there anyway; clients come late, too."""
    rng = world.rng
    sizes = {model: rng.choice((30, 45, 60)) for model in (*MODELS, GREEN)}
    pools = []
    for number in range(rng.randint(1, 3)):
        models = {model: size for model, size in sizes.items() if number == 0 or rng.random() < 0.7}
        pool = FakePool(PoolId(f"a{number}"), rng.choice((60, 100, 130)), models, f"10.1.0.{number}")
        pool.wakeable = number > 0 and rng.random() < 0.4
        pool.asleep = pool.wakeable and rng.random() < 0.5
        pools.append(pool)
    limits = {}
    if rng.random() < 0.5:
        limits[MODELS[0]] = ModelLimits(
            replicas_min=rng.choice((0, 0, 1)), replicas_max=rng.choice((1, 2)), ttl_s=3.0, pinned=rng.random() < 0.3
        )
    world.autospawn(FakePools(world, pools, limits))
    if rng.random() < 0.3:
        worker = FakeWorker(_spec(world, 0))
        world.workers.append(worker)
        world.later(rng.uniform(0.0, 2.0), partial(world.start, worker))
    for number in range(rng.randint(4, 18)):
        world.later(rng.uniform(0.0, FAULTS_END_S), partial(_client, world, number))
    for number in range(20, 20 + rng.randint(2, 12)):
        world.late.add(JobId(f"job-{number}"))
        world.later(FAULTS_END_S + rng.uniform(8.0, 24.0), partial(_client, world, number))
    if rng.random() < 0.4:
        world.load_script(_hooks(world))
    for _ in range(rng.randint(0, 6)):
        world.later(rng.uniform(0.5, FAULTS_END_S), partial(_pool_fault, world))
    world.later(FAULTS_END_S + 0.001, lambda: _mend(world))


def _pool_fault(world: World) -> None:
    """A host goes away for a while, or what goes wrong in other worlds, if there is somebody for it."""
    rng = world.rng
    assert world.on_demand is not None
    if rng.random() < 0.3 or not world.workers:
        pool = rng.choice(list(world.on_demand.pools.values()))
        pool.down_until = world.now + rng.uniform(0.5, 5.0)
        world.history.append(f"{world.now - world.began:8.3f} FAULT down {pool.name}")
    else:
        _fault(world)


def _hooks(world: World) -> frozenset[Hook]:
    return frozenset(hook for hook in Hook if world.rng.random() < 0.5)


def _spec(world: World, number: int) -> WorkerSpec:
    return WorkerSpec(
        worker_id=WorkerId(f"w{number}"),
        url=f"http://10.0.0.{number}:8001",
        model=MODELS[number % 2],
        backend="cpu",
        pool=PoolId(f"p{number % 3}"),
        slots_total=world.rng.randint(1, 3),
        context_length=world.rng.choice((100, 100, 200)),
        vram_bytes=0,
        version="1",
        protocol=1,
        protocol_ok=number == 0 or world.rng.random() > 0.05,
    )


def _client(world: World, number: int) -> None:
    """One submission, perhaps the same again, perhaps a change of mind."""
    rng = world.rng
    job_id = JobId(f"job-{number}")
    attached = rng.random() < 0.5
    spec = JobSpec(
        job_id=job_id,
        payload=b"{}",
        prompt_sha256="0",
        prompt_bytes=rng.choice((10, 10, 10, 150, 250, 700)),
        seed=number,
        prefixes=("a", f"b{number % 3}", f"c{number}")[: number % 4],
        model=rng.choice((*MODELS, *_extra(world), *MODELS, None, ModelId("unheard-of"))),
        max_tokens=rng.choice((None, 20, 20, 90, 300)),
        priority=rng.choice((Priority.INTERACTIVE, Priority.BATCH)),
        tenant=rng.choice(tenancy.TENANTS),
        session_id=rng.choice((None, *tenancy.SESSIONS)),
        timeout_s=rng.choice((None, None, None, 2.0, 8.0)),
        wishes=_wishes(world),
        idempotency_key=rng.choice((None, None, f"key-{number % 3}")),
        on_disconnect=OnDisconnect.CANCEL if attached else OnDisconnect.KEEP,
        attached=attached,
    )
    world.submit(spec, rng.randint(0, 5))
    change = rng.random()
    when = rng.choice((0.0, world.soon(), rng.uniform(0.0, 4.0)))
    if change < 0.15:
        world.later(when, lambda: world.stop_job(happened.CancelRequested(job_id)))
        world.later(when, lambda: world.stop_job(happened.CancelRequested(job_id)))
    elif change < 0.3 and attached:
        world.later(when, lambda: world.stop_job(happened.ClientDisconnected(job_id)))
    elif change < 0.4:
        world.later(when, lambda: world.tell(happened.ClientAttached(job_id)))


def _extra(world: World) -> tuple[ModelId, ...]:
    return () if world.on_demand is None else (GREEN, GREEN)


def _wishes(world: World) -> Wishes:
    rng = world.rng
    kind = rng.random()
    if kind < 0.6:
        return Wishes()
    if kind < 0.7:
        return Wishes(pin_worker=f"w{rng.randrange(5)}")
    if kind < 0.8:
        return Wishes(pin_pool=f"{'p' if world.on_demand is None else 'a'}{rng.randrange(4)}")
    return Wishes(prefer_pools=("p1",), avoid_pools=("p2",), allow_fallback=rng.random() < 0.7)


def _fault(world: World) -> None:
    """Something goes wrong with one worker, a pool, or orchestratord itself."""
    rng = world.rng
    worker = rng.choice(world.workers)
    kind = rng.choice(FAULTS)
    world.history.append(f"{world.now - world.began:8.3f} FAULT {kind} {worker.spec.worker_id}")
    if kind == "kill":
        world.kill(worker)
        if rng.random() < 0.5 and not _is_spawned(worker):
            world.later(rng.uniform(0.1, 4.0), lambda: world.start(worker))
    elif kind == "hang":
        worker.hung_until = world.now + rng.uniform(0.5, 8.0)
    elif kind == "silent":
        worker.silent_until = world.now + rng.uniform(0.5, 8.0)
    elif kind == "again":
        world.announce(worker)
    elif kind == "twin":
        world.announce(FakeWorker(replace(worker.spec, url="http://10.9.9.9:1")))
    elif kind == "move":
        if _is_spawned(worker):
            return
        world.kill(worker)
        worker.spec = replace(worker.spec, url=f"http://10.0.1.{rng.randrange(200)}:8001")
        world.later(rng.uniform(0.1, 1.0), lambda: world.start(worker))
    elif kind == "drain":
        world.tell(happened.WorkerDrainRequested(worker.spec.worker_id))
    elif kind == "forget":
        world.tell(happened.WorkerForgetRequested(worker.spec.worker_id))
    elif kind == "pool":
        world.tell(happened.PoolRegistered(worker.spec.pool, draining=rng.random() < 0.5))
    elif kind == "script":
        world.load_script(_hooks(world))
    elif kind == "tenants":
        world.read_tenants(tenancy.limits(world))
    elif kind == "session":
        world.tell(tenancy.session_event(world))
    elif kind == "disk":
        world.disk_full_until = world.now + rng.uniform(0.1, 4.0)
    elif kind == "stop":
        world.tell(happened.DrainStarted())
        world.later(rng.uniform(0.1, 1.5), world.crash)
    else:
        world.crash()


def _is_spawned(worker: FakeWorker) -> bool:
    """Started by a pool's command line: what is killed there does not come again by itself."""
    return worker.spec.worker_id.startswith("auto-")


def _mend(world: World) -> None:
    """The faults stop: what is down comes up, what drains is started anew, pools serve again."""
    for worker in world.workers:
        worker.liar = False
        if not worker.alive or worker.draining or worker.hung_until > world.now or worker.silent_until > world.now:
            world.kill(worker)
            if not _is_spawned(worker):
                world.later(0.1, partial(world.start, worker))
    if world.on_demand is not None:
        world.on_demand.mend()
    world.read_tenants(happened.TenantsRead({}))
    for pool in ("p0", "p1", "p2"):
        world.later(4.0, partial(world.tell, happened.PoolRegistered(PoolId(pool))))
