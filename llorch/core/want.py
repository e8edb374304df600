"""What waiting jobs demand of a pool: the part of their shape that loading a model can do something about."""

from __future__ import annotations

from typing import NamedTuple

from llorch.base.ids import ModelId, PoolId
from llorch.core.queue import Shape


class Want(NamedTuple):
    """A model (None: any), and the pools that the jobs accept."""

    model: ModelId | None
    pin_pool: str | None = None
    only_pools: tuple[str, ...] = ()
    avoid_pools: tuple[str, ...] = ()

    @staticmethod
    def of(shape: Shape) -> Want:
        return Want(shape.lane, shape.pin_pool, shape.only_pools, shape.avoid_pools)

    def allows(self, pool: PoolId) -> bool:
        """The jobs accept this pool."""
        if self.pin_pool is not None and pool != self.pin_pool:
            return False
        return pool not in self.avoid_pools and (not self.only_pools or pool in self.only_pools)
