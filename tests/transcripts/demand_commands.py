"""Commands and answers of stories about loading on demand. Sizes are MiB; `$1` is the first worker that was spawned."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

from llorch.base.ids import ModelId, PoolId, WorkerId
from llorch.core import effects as to_do
from llorch.core import events as happened
from llorch.core.demand_settings import MIB, DemandRead, DemandSettings, ModelLimits
from llorch.core.effects import Effect
from llorch.core.events import Event
from llorch.core.pool_facts import Bank, ModelThere, Place, PoolRead, WorkerThere

Options = dict[str, str]
MINTED = re.compile(r"auto-0-[0-9a-f]{10}")


class Names:
    """`$1`, `$2`, … for the ids that the brain minted, in the order of their first appearance."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def shown(self, line: str) -> str:
        """An answer with short names."""
        for name in MINTED.findall(line):
            if name not in self.ids:
                self.ids.append(name)
        return MINTED.sub(lambda found: f"${self.ids.index(found[0]) + 1}", line)

    def meant(self, line: str) -> str:
        """A command with the ids themselves."""
        return re.sub(r"\$(\d+)", lambda found: self.ids[int(found[1]) - 1], line)


def _values(kind: type, options: Options) -> dict[str, Any]:
    types = {field.name: type(field.default) for field in fields(kind) if field.name in options}
    return {name: types[name](float(options[name])) for name in types}


class Demand:
    """What the configuration says: `demand spawn_limit_s=60`, then `model demo replicas_min=1 pinned`."""

    def __init__(self) -> None:
        self.settings: DemandSettings | None = None
        self.models: dict[ModelId, ModelLimits] = {}
        self.default = ModelLimits()
        self.pools: list[PoolId] = []

    def set(self, words: list[str], options: Options) -> DemandRead:
        """`demand local p1`: these pools, these settings, and `ttl_s` for models that are not named."""
        self.pools = [PoolId(word) for word in words]
        self.settings = DemandSettings(**_values(DemandSettings, options))
        self.default = ModelLimits(**_values(ModelLimits, options))
        return self.read()

    def model(self, words: list[str], options: Options) -> DemandRead:
        """`model NAME`: limits of its own."""
        pools = tuple(map(PoolId, options["pools"].split(","))) if "pools" in options else ()
        values = _values(ModelLimits, {k: v for k, v in options.items() if k != "pools"})
        self.models[ModelId(words[0])] = ModelLimits(**values, pinned="pinned" in words, pools=pools)
        return self.read()

    def read(self) -> DemandRead:
        return DemandRead(self.settings, dict(self.models), self.default, tuple(self.pools))


def facts(words: list[str], options: Options) -> Event:
    """`facts p1 ram=900/1000 models=demo:100 workers=$1:demo`: free and total; `asleep` or `down` instead."""
    pool = PoolId(words[0])
    if "asleep" in words or "down" in words:
        return PoolRead(pool, reachable=False, wakeable="asleep" in words, reason="no answer")
    banks, places = [], []
    for name in ("gpu0", "ram"):
        if name in options:
            free, total = (int(part) * MIB for part in options[name].split("/"))
            banks.append(Bank(name, total, free))
            places.append(Place("cpu", None, name) if name == "ram" else Place("cuda", 0, name))
    models = [part.split(":") for part in options["models"].split(",")] if "models" in options else []
    there = [part.split(":") for part in options["workers"].split(",")] if "workers" in options else []
    return PoolRead(
        pool,
        banks=tuple(banks),
        places=tuple(places),
        models=tuple(ModelThere(ModelId(name), 0, int(size) * MIB) for name, size in models),
        workers=tuple(WorkerThere(WorkerId(name), ModelId(model), "cpu") for name, model in there),
    )


def heard(words: list[str], options: Options) -> Event:
    """`spawn started $1`, `spawn progress $1 share=0.5`, `spawn ready $1`, `spawn failed $1 code=… why=…`."""
    kind, worker_id = words[0], WorkerId(words[1])
    match kind:
        case "started":
            return happened.SpawnStarted(worker_id)
        case "progress":
            return happened.SpawnProgressed(worker_id, float(options["share"]))
        case "ready":
            return happened.SpawnReady(worker_id)
        case "stopped":
            return happened.WorkerStopped(worker_id)
        case "unstopped":
            return happened.StopFailed(worker_id, options.get("why", "told"))
        case _:
            return happened.SpawnFailed(worker_id, options.get("code", "HOST_ERROR"), options.get("why", "told"))


def told(effect: Effect) -> str | None:
    """One effect of this kind as one line; None: it is of another kind."""
    match effect:
        case to_do.SpawnWorker():
            swaps = ", a swap" if effect.swaps else ""
            what = f"{effect.model} on {effect.pool} by {effect.backend}"
            return f"spawn {effect.worker_id}: {what}, attempt {effect.attempt}, {effect.cause.value}{swaps}"
        case to_do.StopWorker():
            return f"stop {effect.worker_id}: {effect.model} on {effect.pool}, {effect.cause.value}"
        case to_do.WakePool():
            return f"wake {effect.pool}"
        case to_do.ReadPool():
            return f"read {effect.pool}"
        case to_do.TellLoading():
            eta = "" if effect.eta_s is None else f", in {effect.eta_s:.1f} s"
            return f"loading {effect.job_id}: {effect.model} {effect.progress:.0%}{eta}"
        case _:
            return None
