"""From a model's name to a worker that serves it: survey the pools, choose one, bring the model, start what is missing.

One preparation of a model at a time for each user, so that nothing is fetched or started twice; whatever a killed one
has done already is used by the next.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from llorch.base import config
from llorch.base.addresses import is_loopback
from llorch.base.errors import PoolUnavailable
from llorch.client.sync import Client
from llorch.host import disk, interrupts, ssh
from llorch.host.targets import EVERY, find_targets
from llorch.remote import bringing, own_orchestratord, served, survey, terminal
from llorch.remote.served import Way
from llorch.remote.survey import LOCAL, Offer, Place

LOCK_TIMEOUT_S = 24 * 3600.0


def places(names: Sequence[str], settings: Mapping[str, Any]) -> list[Place]:
    """The pools of `--host`; none named is this machine, `all` every registered pool and this machine, first."""
    profiles = settings.get("pools", {})
    wanted: list[Place] = []
    for name in (name.strip() for name in names or [LOCAL]):
        if name == LOCAL and LOCAL not in profiles:
            wanted.append(Place(LOCAL, None))
        elif name == EVERY and EVERY not in profiles:
            wanted += [Place(LOCAL, None)]
            if profiles:
                wanted += [Place(target.name, target) for target in find_targets([EVERY], settings)]
        else:
            wanted += [Place(target.name, target) for target in find_targets([name], settings)]
    return list({place.name: place for place in wanted}.values())


@dataclass(slots=True)
class Preparation:
    """What is to be served, and where. `orchestrator` is the configured URL, `is_named` when a flag said it."""

    name: str
    model: str
    pools: Sequence[str]
    orchestrator: str | None
    is_named: bool
    key: str
    settings: Mapping[str, Any]

    def way(self) -> Way:
        """A worker serves the model now, and orchestratord knows it. Raises LlorchError."""
        found = places(self.pools, self.settings)
        if self.orchestrator is not None and not is_loopback(self._client().endpoint.host):
            self._check_reachable(found)
        state = config.state_dir(os.environ).absolute()
        disk.make_dir(state, mode=0o700)
        lock = disk.locked(state / f".run-{self.model}.lock", timeout_s=LOCK_TIMEOUT_S, waiting=self._tell_waiting)
        with interrupts.as_keyboard_interrupt(), lock:
            return self._locked(found)

    def _tell_waiting(self) -> None:
        terminal.tell(f"another llorch run prepares {self.model}; waiting for it")

    def _check_reachable(self, found: Sequence[Place]) -> None:
        """A worker of this machine listens on loopback, where an orchestratord elsewhere does not reach it."""
        if any(place.target is None for place in found):
            raise PoolUnavailable(
                f"no worker serves {self.model}, and orchestratord at {self.orchestrator} is on another machine: "
                "name the pools that may serve with --host"
            )

    def _client(self) -> Client:
        """Of the orchestratord that is configured, else of our own, which is started when there is none."""
        if self.orchestrator is not None:
            return Client(self.orchestrator, key=self.key)
        running, is_new = own_orchestratord.find_or_start(os.environ)
        if is_new:
            log = config.state_dir(os.environ) / own_orchestratord.LOG_FILE
            terminal.tell(
                f"orchestratord started at {running.url}; it stays (stop it with: kill {running.pid}; log: {log})"
            )
        return Client(running.url, key=self.key)

    def _locked(self, found: Sequence[Place]) -> Way:
        if (way := self._served_meanwhile()) is not None:
            return way
        offers = list(ssh.run_interruptible(lambda: survey.ask(found, self.name)))
        for offer in (offer for offer in offers if offer.workers):
            if records := list(ssh.run_interruptible(partial(bringing.alive_at, offer.place, offer.model))):
                try:
                    return self._join(offer, records)
                except bringing.WorkersEnded as error:
                    terminal.tell(error.message)
        return self._start(survey.choose(offers))

    def _served_meanwhile(self) -> Way | None:
        """Whoever held the lock before us has perhaps done it all."""
        if self.pools and list(self.pools) != [EVERY]:
            return None
        running = own_orchestratord.find(os.environ)
        if self.orchestrator is None and running is None:
            return None
        client = self._client()
        return Way(client, self.model, None, is_warm=False) if served.ready(client, self.model) else None

    def _join(self, offer: Offer, records: Sequence[Mapping[str, Any]]) -> Way:
        """Workers of the pool serve it, or will when they have loaded; perhaps orchestratord has not heard of them."""
        known = {str(record["worker_id"]) for record in records}
        running = self.orchestrator is not None or own_orchestratord.find(os.environ) is not None
        client = self._client()
        there = [worker_id for worker_id in served.ready(client, offer.model) if worker_id in known]
        if there:
            return self._way(client, offer, there[0], is_warm=running)
        terminal.tell(f"{offer.place.name}: {', '.join(sorted(known))} serves {offer.model} already; waiting for it")
        worker_id = bringing.await_known(client, offer.place, records, offer.model, wait_s=bringing.LOAD_WAIT_S)
        return self._way(client, offer, worker_id, is_warm=False)

    def _start(self, offer: Offer) -> Way:
        place = offer.place
        terminal.tell(f"{place.name}: {offer.model} fits ({survey.fit_line(offer)})")
        if not offer.is_here:
            ssh.run_interruptible(lambda: bringing.bring(offer, self.name, self.settings))
        client = self._client()
        client.health()  # before a model is loaded for nothing
        backend = offer.backend
        assert backend is not None, "a chosen pool has a backend that fits"
        record = ssh.run_interruptible(
            lambda: bringing.spawn(place, offer.model, backend, client.url, is_named=self.is_named)
        )
        worker_id = bringing.await_known(client, place, [record], offer.model, wait_s=bringing.LOAD_WAIT_S)
        where = "" if place.target is None else f" --host {place.name}"
        command = f"llorch pool worker stop {worker_id}{where}"
        terminal.tell(f"{place.name}: {worker_id} serves {offer.model}; it stays (stop it with: {command})")
        return self._way(client, offer, worker_id, is_warm=False)

    def _way(self, client: Client, offer: Offer, worker_id: str, *, is_warm: bool) -> Way:
        """Named pools mean that only those may answer; otherwise any worker may, as it suits orchestratord."""
        pinned = worker_id if self.pools and list(self.pools) != [EVERY] else None
        return Way(client, offer.model, pinned, is_warm=is_warm)
