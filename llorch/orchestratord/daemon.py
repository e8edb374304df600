"""One orchestratord from start to end: open the state, restore, listen, look after time, drain, close."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import ssl
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

from llorch.base import clock, log, worker_token
from llorch.base.addresses import is_loopback, local_url
from llorch.base.clock import SystemClock
from llorch.base.errors import ConfigError, HostError, InvalidRequest, LlorchError, StorageUnavailable
from llorch.base.ids import JobId, ModelId
from llorch.core.brain import Brain
from llorch.core.effects import Effect
from llorch.core.events import DrainStarted, PoolRegistered, Relayed, Restarted, SettingsRead
from llorch.core.job import JobRecord
from llorch.core.tenant import DAY_S
from llorch.host import notify, runtime
from llorch.host.process import on_reload, on_stop
from llorch.orchestratord import access, in_force, statedir, upstream
from llorch.orchestratord.access import Access
from llorch.orchestratord.actuator import Actuator
from llorch.orchestratord.adopt import Adopter, Contact
from llorch.orchestratord.clock import BrainClock, Zone
from llorch.orchestratord.configuration import Configuration
from llorch.orchestratord.demand_file import Demand
from llorch.orchestratord.dispatch import Dispatcher
from llorch.orchestratord.driver import Driver
from llorch.orchestratord.known_models import CatalogWatch
from llorch.orchestratord.live_configuration import LiveConfiguration
from llorch.orchestratord.metrics import Metrics
from llorch.orchestratord.policy_file import PolicyFile, PolicyPlace, place_of
from llorch.orchestratord.pool_facts import PoolFacts
from llorch.orchestratord.process_limits import collect_seldom, raise_file_limit
from llorch.orchestratord.routes import application
from llorch.orchestratord.service import Phase, Service
from llorch.orchestratord.settings import LanAccess, Mode, Settings
from llorch.orchestratord.simulator import Simulator
from llorch.orchestratord.streams import JobStream, Streams
from llorch.orchestratord.tunnels import Tunnels
from llorch.scripting.policy import ScriptedPolicy
from llorch.store.segments import OPEN_FILES_MAX, Segments
from llorch.store.store import FILE_NAME, Snapshot, Store
from llorch.web.listening import Listener
from llorch.web.sockets import bound_socket
from llorch.wire import prefix, strict_json

logger = log.get(__name__)

TICK_S = 1.0
SWEEP_EVERY_S = 30.0
USAGE_KEPT_DAYS = 400
DRAIN_POLL_S = 0.05
POLICY_CHILD = partial(runtime.daemon_command, "policy-child")
FILES_OF_A_STREAM = 4  # its client, its worker, its token journal, and one to spare


class Stopped(Exception):
    """The daemon has done its work; unwinds its task group."""


async def run(config: LiveConfiguration) -> None:
    """Serve until a signal says stop. Raises ConfigError, HostError with one clear line."""
    notifier = notify.take(os.environ)
    settings = config.current.settings
    statedir.prepare(settings.state_dir)
    files_max = raise_file_limit()
    async with AsyncExitStack() as stack:
        lock = statedir.Lock(settings.state_dir)
        stack.callback(lock.release)
        store = Store(settings.state_dir / FILE_NAME)
        stack.callback(store.close)
        access.check_binding(settings, store.stored_keys())
        sock = bound_socket(settings.bind, settings.port)
        stack.callback(sock.close)
        tls = tls_context(settings)
        segments = Segments(settings.state_dir / "segments", max(OPEN_FILES_MAX, files_max // FILES_OF_A_STREAM))
        stack.callback(segments.close)
        tunnels = Tunnels()
        session = await stack.enter_async_context(upstream.open_session(tunnels.connect))
        try:
            async with asyncio.TaskGroup() as group:
                daemon = Daemon(config, store, segments, group, session, tunnels, notifier)
                await daemon.serve(sock, tls)
                raise Stopped
        except* Stopped:
            log.event(logger, "stopped")
        except* LlorchError as failed:
            raise failed.exceptions[0] from None


class Daemon:
    """The parts of one orchestratord, put together."""

    def __init__(
        self,
        config: LiveConfiguration,
        store: Store,
        segments: Segments,
        group: asyncio.TaskGroup,
        session: upstream.Session,
        tunnels: Tunnels,
        notifier: notify.Notifier,
    ) -> None:
        self._config, self._notifier, self._group = config, notifier, group
        settings = config.current.settings
        self._url = ""
        self._snapshot = store.snapshot(settings.brain.idempotency_keys_max, time.time())
        token = worker_token.find_or_create(os.environ, settings.state_dir)
        self._mark = mark_of(token)
        door = Access(settings.mode, settings.lan_access, token)
        door.set_keys(store.stored_keys())
        brain = Brain(settings.brain)
        brain_clock = BrainClock(SystemClock(), self._snapshot.newest_at)
        streams, metrics = Streams(), Metrics()
        metrics.tenants.begin(self._snapshot.usage)
        self._dispatcher = Dispatcher(
            session, group, brain_clock, metrics, door.token_for, lambda event: driver.post(event)
        )
        scripted = ScriptedPolicy(POLICY_CHILD, lambda event: driver.post(event), metrics.policy)
        driver = Driver(
            brain, store, segments, streams, self._dispatcher, brain_clock, metrics, scripted.ask, self._actuate
        )
        self._actuator = Actuator(
            group,
            driver.post,
            metrics.loads,
            token,
            lambda: self._url,
            only_loopback=is_loopback(settings.bind),
            tunnels=tunnels,
            take_in=lambda url, correlation_id: self.service.take_in(url, correlation_id),
        )
        adopter = Adopter(session, group, brain.worker, driver.post)
        self.service = Service(
            access=door,
            brain=brain,
            clock=brain_clock,
            driver=driver,
            store=store,
            segments=segments,
            streams=streams,
            metrics=metrics,
            adopter=adopter,
            catalog=CatalogWatch(os.environ),
            policy=PolicyFile(policy_place(settings), POLICY_CHILD, scripted),
            simulator=Simulator(settings.config_path),
            pools=PoolFacts(lambda: config.current.file, group),
            actuator=self._actuator,
            config=config,
        )
        self._zone = Zone()
        self._stop_wanted = asyncio.Event()
        self._stop_now = asyncio.Event()

    async def serve(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Restore, listen, and come back when everything has been wound down."""
        service, settings = self.service, self._config.current.settings
        on_stop(asyncio.get_running_loop(), self._on_signal)
        on_reload(asyncio.get_running_loop(), self._on_reload)
        turns = self._group.create_task(service.driver.run(), name="driver")
        service.refresh_catalog()
        service.driver.post(self._config.current.tenants)
        self._url = service_url(settings, sock)
        await service.driver.tell(restarted(self._snapshot, service))
        self._adopt_again()
        self._tell_zone()
        policy_tasks = await self._start_policy()
        self._tell_demand(self._config.current.demand)
        for stream in service.streams:
            if (place := service.brain.position(stream.job_id)) is not None:
                stream.place(*place)
        listener = self._listener = Listener(application(service), settings.connections_max)
        await listener.start(sock, tls)
        url = self._url
        in_force.write(self._config.current)
        statedir.write_record(settings.state_dir, url, clock.iso(time.time()))
        collect_seldom()
        service.phase = Phase.READY
        ticks = self._group.create_task(self._tick(), name="ticks")
        sweeps = self._group.create_task(self._sweep(), name="sweeps")
        if settings.lan_access is LanAccess.OPEN:
            log.event(logger, "ANYBODY WHO REACHES THIS PORT MAY USE IT (--insecure-lan)", level=30)
        beats = self._group.create_task(self._beat(), name="watchdog")
        self._notifier.ready(f"serving at {url}")
        log.event(logger, "listening", url=url, state=settings.state_dir, live_jobs=len(service.streams))
        try:
            await self._stop_wanted.wait()
            await self._drain()
        finally:
            service.driver.stop()
            statedir.remove_record(settings.state_dir)
            await listener.stop()
            for task in (ticks, sweeps, beats, turns, *policy_tasks):
                task.cancel()
            await service.policy.scripted.close()
            await self._actuator.close()

    async def _start_policy(self) -> list[asyncio.Task[None]]:
        """Have a script answer from now on, where there is one. Raises ConfigError."""
        policy = self.service.policy
        await policy.start()
        return [
            self._group.create_task(policy.scripted.run(), name="policy"),
            self._group.create_task(policy.watch(), name="policy file"),
        ]

    def _tell_zone(self) -> None:
        if (news := self._zone.news()) is not None:
            self.service.driver.post(news)

    def _actuate(self, effect: Effect) -> None:
        self._actuator.carry_out(effect)

    def _tell_demand(self, demand: Demand) -> None:
        """What the configuration says of models and pools holds from now on."""
        settings = demand.read.settings
        marked = None if settings is None else replace(settings, mark=self._mark)
        self.service.driver.post(replace(demand.read, settings=marked))
        self._actuator.set_pools(demand.pools, watched=demand.read.settings is not None)

    def _adopt_again(self) -> None:
        """Workers that an operator added before the restart do not know of it: look for them."""
        for record in self.service.brain.workers():
            if record.spec.adopted:
                self.service.access.vouch(record.spec.worker_id, record.spec.url)
                self.service.adopter.keep(record.spec.worker_id, Contact.LOST)

    def _on_signal(self) -> None:
        """First signal: drain; second: at once."""
        if self._stop_wanted.is_set():
            self._stop_now.set()
        self._stop_wanted.set()

    def _on_reload(self) -> None:
        """SIGHUP: read again what may be read again, changed or not."""
        self._notifier.reloading()
        self.service.policy.want_reload()
        self._take_over(self._config.read_again())
        self._notifier.ready("serving")

    def _take_over(self, before: Configuration | None) -> None:
        """Tell those whose part of the configuration is another than `before`; None: nothing is."""
        if before is None:
            return
        now = self._config.current
        if now.settings.brain != before.settings.brain:
            self.service.driver.post(SettingsRead(now.settings.brain))
        if now.tenants != before.tenants:
            self.service.driver.post(now.tenants)
        if now.demand != before.demand:
            self._tell_demand(now.demand)
        self._listener.connections_max = now.settings.connections_max
        log.set_level(now.settings.log_level)
        try:
            in_force.write(now)
        except HostError as error:
            log.event(logger, error.message, level=40)

    async def _drain(self) -> None:
        """Take nothing new; give running jobs the grace time. What is left goes on after the next start."""
        self.service.phase = Phase.DRAINING
        self.service.driver.post(DrainStarted())
        self._notifier.stopping(f"draining {len(self._dispatcher)} running jobs")
        grace_s = self._config.current.settings.grace_s
        log.event(logger, "draining", attempts=len(self._dispatcher), grace_s=grace_s)
        try:
            async with asyncio.timeout(grace_s):
                while self.service.brain.counts().running and not self._stop_now.is_set():
                    try:
                        async with asyncio.timeout(DRAIN_POLL_S):
                            await self._stop_now.wait()
                    except TimeoutError:
                        continue
        except TimeoutError:
            log.event(logger, "the grace time is over; running jobs continue after the next start")

    async def _beat(self) -> None:
        """Tell the service manager that the loop turns: it restarts us when we have not said so for long."""
        while self._notifier.watchdog_s is not None:
            self._notifier.alive()
            await asyncio.sleep(self._notifier.watchdog_s)

    async def _tick(self) -> None:
        """Pings, stalled clients, journals that the disk refused, a configuration that has changed, summer time."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_S)
            self.service.streams.tick(loop.time())
            self.service.segments.settle()
            self._tell_zone()
            self._take_over(self._config.news())

    async def _sweep(self) -> None:
        """Remove what has been kept long enough, and journals that no job claims."""
        await self._remove_strays()
        while True:
            try:
                await self._expire()
            except StorageUnavailable as error:
                log.event(logger, f"expiry has to wait: {error.message}", level=30)
            await asyncio.sleep(min(SWEEP_EVERY_S, max(0.1, self._config.current.settings.output_kept_s / 4)))

    async def _expire(self) -> None:
        service, settings = self.service, self._config.current.settings
        now = service.clock.now()
        service.pools.forget_others({pool.pool_id for pool in service.brain.pools()})
        service.access.forget_others((w.spec.worker_id, w.spec.url) for w in service.brain.workers())
        while ended := await service.store.expired_outputs(now - settings.output_kept_s):
            # In this order: a record must not promise what is gone. What a crash leaves between is a stray.
            await service.store.forget_outputs(ended)
            service.segments.remove(ended)
        await service.store.expire(now - settings.record_kept_s)
        await service.store.expire_usage(int(now // DAY_S) - USAGE_KEPT_DAYS)
        await service.store.checkpoint()

    async def _remove_strays(self) -> None:
        names = self.service.segments.names()
        kept = await self.service.store.kept_outputs(names)
        strays = [JobId(name) for name in names if name not in kept and self.service.streams.get(name) is None]
        self.service.segments.remove(strays)


def restarted(snapshot: Snapshot, service: Service) -> Restarted:
    """The stored state as the brain's first event; live jobs get their streams back."""
    relayed = {}
    for record in snapshot.jobs:
        job_id = record.spec.job_id
        segment = service.segments.open(job_id)
        if segment.last_id:
            model = segment.model()
            relayed[job_id] = Relayed(segment.frames, segment.token_count(), None if model is None else ModelId(model))
        segment.release()
        service.streams.add(JobStream(job_id, segment))
    pools = tuple(PoolRegistered(pool.pool_id, pool.draining) for pool in snapshot.pools)
    jobs = tuple(map(_with_prefixes, snapshot.jobs))
    return Restarted(
        jobs, snapshot.workers, pools, relayed, snapshot.keys, sessions=snapshot.sessions, usage=snapshot.usage
    )


def _with_prefixes(record: JobRecord) -> JobRecord:
    """A stored job with the digests that are not stored: they say too much of its prompt to outlive it."""
    try:
        prefixes = prefix.digests_of_body(strict_json.parse_object(record.spec.payload))
    except InvalidRequest:
        return record  # a damaged payload: its attempt will say so
    return replace(record, spec=replace(record.spec, prefixes=prefixes)) if prefixes else record


def mark_of(token: str) -> str:
    """What this cluster's workers are known by: it says nothing of the token it is made of."""
    return hashlib.sha256(b"llorch workers of " + token.encode()).hexdigest()[:6]


def policy_place(settings: Settings) -> PolicyPlace:
    """Where the policy script is, if this orchestratord may have one."""
    return place_of(settings.policy, settings.state_dir, is_open=settings.mode is not Mode.PLATFORM)


def service_url(settings: Settings, sock: socket.socket) -> str:
    """The URL under which clients of this host reach us."""
    return local_url(settings.bind, sock.getsockname()[1], "https" if settings.tls_cert else "http")


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """TLS 1.2 or newer with the configured certificate. Raises ConfigError."""
    if settings.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"the TLS certificate or key cannot be used: {error}") from None
    return context
