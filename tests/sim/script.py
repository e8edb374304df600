"""What a policy script might say, drawn from the world's seed: anything that `hooks.read_answer` lets through."""

from __future__ import annotations

from random import Random
from typing import Any

from llorch.base.ids import WorkerId
from llorch.core.effects import Ask
from llorch.core.hooks import Answer, ChangedTimeouts
from llorch.core.policy import Hook, Rejection, WhenFull


def answer(rng: Random, ask: Ask, *, moody: bool) -> Answer:
    """An answer to this question; one that is not `moody` keeps nobody waiting or out."""
    arguments: dict[str, Any] = ask.arguments
    match ask.hook:
        case Hook.ADMIT:
            return Rejection("not today", 3.0) if moody and rng.random() < 0.1 else None
        case Hook.PRIORITIZE:
            return rng.choice((-10.0, 0.0, 0.0, 5.0))
        case Hook.TIMEOUT:
            return ChangedTimeouts(rng.choice(((), (("total_s", 8.0),), (("queue_s", 20.0), ("stall_s", 2.0)))))
        case Hook.ON_QUEUE_FULL:
            return rng.choice(tuple(WhenFull))
        case Hook.CHOOSE_WORKER:
            names = [WorkerId(worker["worker_id"]) for worker in arguments["workers"]]
            return None if moody and rng.random() < 0.2 else rng.choice(names)
        case Hook.RETRY:
            return None if moody and rng.random() < 0.2 else rng.choice((0.0, 0.5))
        case Hook.EVICT:
            names = [WorkerId(worker["worker_id"]) for worker in arguments["workers"]]
            rng.shuffle(names)
            return () if moody and rng.random() < 0.3 else tuple(names)
