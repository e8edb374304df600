"""What each hook is told, what it may answer, and what becomes of an answer that makes no sense."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from scripting_desk import desk, sample

from llorch.core.hooks import Answer, ChangedTimeouts
from llorch.core.policy import Hook, Rejection, WhenFull
from llorch.scripting.signatures import signature

ODD_ONE = "task.model == 'odd'"
HARMLESS = {
    Hook.ADMIT: "True",
    Hook.PRIORITIZE: "0",
    Hook.ON_QUEUE_FULL: "'reject'",
    Hook.EVICT: "[]",
    Hook.RETRY: "None",
    Hook.TIMEOUT: "{}",
}


def odd(hook: Hook) -> dict[str, Any]:
    """The first sample question, of a job for a model that no sample has."""
    arguments = sample(hook)
    return {**arguments, "task": {**arguments["task"], "model": "odd"}}


def answer(hook: Hook, body: str, arguments: dict[str, object] | None = None) -> Answer | str:
    """What the hook with this body answers."""

    async def ask() -> Answer | str:
        async with desk(f"def {signature(hook)}:\n    {body}\n") as here:
            return await here.ask(hook, arguments)

    return asyncio.run(ask())


GOOD = [
    (Hook.ADMIT, "return True", None),
    (Hook.ADMIT, "return None", None),
    (Hook.ADMIT, "return False", Rejection()),
    (Hook.ADMIT, "return 'not today'", Rejection("not today")),
    (Hook.ADMIT, "return {'reason': 'later', 'retry_after_s': 5}", Rejection("later", 5.0)),
    (Hook.PRIORITIZE, "return -1.5", -1.5),
    (Hook.PRIORITIZE, "return 30", 30.0),
    (Hook.CHOOSE_WORKER, "return workers[-1]", "worker-cpu-0"),
    (Hook.CHOOSE_WORKER, "return workers[0].worker_id", "worker-cpu-0"),
    (Hook.CHOOSE_WORKER, "return None", None),
    (Hook.ON_QUEUE_FULL, "return 'drop_oldest_batch'", WhenFull.DROP_OLDEST_BATCH),
    (Hook.ON_QUEUE_FULL, "return 'reject' if queue.depth >= queue.capacity else 1", WhenFull.REJECT),
    (Hook.EVICT, "return workers", ()),
    (Hook.RETRY, "return None", None),
    (Hook.RETRY, "return n * 2", 2.0),
    (Hook.TIMEOUT, "return {'queue_s': None, 'stall_s': 9}", ChangedTimeouts((("queue_s", None), ("stall_s", 9.0)))),
    (Hook.TIMEOUT, "return None", ChangedTimeouts()),
]


@pytest.mark.parametrize(("hook", "body", "expected"), GOOD, ids=lambda value: str(value)[:40])
def test_each_hook_answers_in_its_own_words(hook: Hook, body: str, expected: Answer) -> None:
    """Every form of answer that a hook may give arrives as the brain understands it."""
    assert answer(hook, body) == expected


def test_everything_a_script_is_told_reads_as_attributes() -> None:
    """task, ctx with its tenant, workers, queue and failure are read by attribute; numbers stay numbers."""
    body = (
        "return '/'.join([str(v) for v in [task.model, task.priority, task.tenant, task.hour, task.weekday, "
        "ctx.queue_depth, ctx.tenant.tokens_today, type(task.random)]])"
    )
    told = answer(Hook.ADMIT, body)
    assert told == Rejection("qwen3-8b/interactive/alice/3/0/0/0/float")


def test_a_worker_that_was_not_offered_is_refused() -> None:
    """A script cannot name a worker that placement did not offer it."""
    body = "return 'worker-x' if task.model == 'odd' else workers[0]"
    told = answer(Hook.CHOOSE_WORKER, body, odd(Hook.CHOOSE_WORKER))
    assert isinstance(told, str) and told.startswith("invalid: ") and "worker-x" in told


@pytest.mark.parametrize(
    ("hook", "body", "reason"),
    [
        (Hook.ADMIT, "return 7", "invalid: "),
        (Hook.ADMIT, "return lambda: 1", "error: "),
        (Hook.ADMIT, "fail('on purpose')", "error: fail: on purpose (line 3)"),
        (Hook.ADMIT, "return task.no_such_thing", "error: "),
        (Hook.ADMIT, "return 1 << 100000", "error: "),
        (Hook.ADMIT, "return 'a' * 1000000", "error: the answer is larger than 64 KiB"),
        (Hook.PRIORITIZE, "return float('nan')", "invalid: "),
        (Hook.PRIORITIZE, "return 1e300", "invalid: "),
        (Hook.PRIORITIZE, "return True", "invalid: "),
        (Hook.PRIORITIZE, "return 1 << 2000", "invalid: "),
        (Hook.PRIORITIZE, "return float('inf')", "invalid: "),
        (Hook.ON_QUEUE_FULL, "return 'explode'", "invalid: "),
        (Hook.EVICT, "return 'all'", "invalid: "),
        (Hook.RETRY, "return -1", "invalid: "),
        (Hook.TIMEOUT, "return {'queue': 1}", "invalid: "),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_answer_that_makes_no_sense_has_a_reason(hook: Hook, body: str, reason: str) -> None:
    """A bad answer, or none, is told with the reason's first word as the metrics have it; the child lives on."""

    async def ask() -> None:
        # The check must see a good script: it goes wrong for a question that no sample asks.
        is_evict = hook is Hook.EVICT
        trigger, arguments = ("need == 1", {**sample(hook), "need": 1}) if is_evict else (ODD_ONE, odd(hook))
        source = f"def {signature(hook)}:\n    if {trigger}:\n        {body}\n    return {HARMLESS[hook]}\n"
        async with desk(source) as here:
            pid = here.policy.child_pid
            told = await here.ask(hook, arguments)
            assert isinstance(told, str) and told.startswith(reason), told
            assert not isinstance(await here.ask(hook), str)
            assert here.policy.child_pid == pid

    asyncio.run(ask())


def test_no_call_leaves_anything_behind() -> None:
    """What a script holds at its top level is frozen: one call cannot speak to the next."""
    source = "seen = []\ndef admit(task, ctx):\n    if task.model == 'odd':\n        seen.append(1)\n    return True\n"

    async def ask() -> None:
        async with desk(source) as here:
            told = await here.ask(Hook.ADMIT, odd(Hook.ADMIT))
            assert isinstance(told, str) and "Immutable" in told

    asyncio.run(ask())


def test_print_is_bounded_and_harmless() -> None:
    """A script that prints without end still answers, and what it printed does not come with the answer in full."""
    source = "def admit(task, ctx):\n    for i in range(2000):\n        print('spam' * 100)\n    return True\n"

    async def ask() -> None:
        async with desk(source) as here:
            assert await here.ask(Hook.ADMIT) is None

    asyncio.run(ask())
