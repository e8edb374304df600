"""What an operator may set about loading models on demand; every bound is written here with its default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llorch.base.ids import ModelId, PoolId

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """How one model is kept. `pools` are those it may run on; none named: any. `pinned`: its last worker stays."""

    replicas_min: int = 0
    replicas_max: int = 1
    ttl_s: float = 600.0
    pinned: bool = False
    pools: tuple[PoolId, ...] = ()

    @property
    def kept(self) -> int:
        """So many workers of it are never unloaded; those that a backlog added may be."""
        return max(self.replicas_min, 1 if self.pinned else 0)


@dataclass(frozen=True, slots=True)
class DemandSettings:
    """Durations are seconds, sizes bytes. `mark` tells the workers of this orchestratord from those of others."""

    mark: str = "0"
    spawn_limit_s: float = 600.0
    spawn_failures_max: int = 4
    spawn_backoff_first_s: float = 2.0
    spawn_backoff_max_s: float = 300.0
    stop_limit_s: float = 60.0
    stop_backoff_s: float = 10.0
    announce_limit_s: float = 20.0
    hopeless_s: float = 10.0
    residency_min_s: float = 30.0
    swap_age_max_s: float = 60.0
    scale_out_eta_s: float = 60.0
    size_factor: float = 1.25
    overhead_bytes: int = 300 * MIB
    wake_limit_s: float = 300.0
    wake_backoff_s: float = 600.0
    facts_old_s: float = 10.0
    look_every_s: float = 1.0
    explained_max: int = 50


@dataclass(frozen=True, slots=True)
class DemandRead:
    """An event: what the configuration says now, and which pools there are, with their labels.

    `settings` None: nothing is loaded on demand.
    """

    settings: DemandSettings | None
    models: Mapping[ModelId, ModelLimits] = field(default_factory=dict)
    default: ModelLimits = field(default_factory=ModelLimits)
    pools: tuple[PoolId, ...] = ()
    labels: Mapping[PoolId, tuple[str, ...]] = field(default_factory=dict)
