"""Sampling fields on their way to the engine, and log probabilities on their way back; the engine is scripted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from aiohttp import ClientSession
from letters import Letters

from llorch.base.clock import SystemClock
from llorch.base.errors import InvalidRequest
from llorch.batching.detokenize import Piece
from llorch.batching.plan import Drawn
from llorch.batching.planner import Counts
from llorch.batching.sequence import SamplingParams, StopReason
from llorch.web.listening import Listener
from llorch.web.sockets import bound_socket
from llorch.wire import prefix, sse
from llorch.wire.execute import ExecuteRequest, parse_execute
from llorch.workerd import outlet, routes
from llorch.workerd.engine import Progress, Submission
from llorch.workerd.outlet import Ending, Outlet, Update
from llorch.workerd.service import Facts, Service

FACTS = Facts("w", "letters", "cpu", 4, 10_000, 300, "0", 1, {})


class ScriptedEngine:
    """Keeps what it was given, and says "abc" to everything, two tokens in the first piece."""

    def __init__(self) -> None:
        self.progress = Progress()
        self.given: list[Submission] = []
        self.service: Service | None = None

    def submit(self, submission: Submission) -> None:
        self.given.append(submission)
        count = submission.sampling.logprobs
        drawn = tuple(drawn_token(n, count) for n in range(3))
        asked = () if count is None else drawn
        taker = submission.outlet
        assert self.service is not None
        self.service.deliver(
            [
                Update(taker, Piece("ab", (97, 98)), 2, 2, 1.0, logprobs=asked[:2]),
                Update(taker, Piece("c", (99,)), 1, 3, 1.1, Ending(StopReason.MAX_TOKENS), asked[2:]),
            ]
        )

    def cancel(self, taker: Outlet) -> None:
        pass


def drawn_token(n: int, count: int | None) -> Drawn:
    """Token n of "abc" with `count` likely ones; the last of those can hardly come."""
    top = tuple((200 + k, -0.5 - k if k < 2 else -float("inf")) for k in range(count or 0))
    return Drawn(97 + n, -0.12345678901 - n, top)


def service_over(engine: ScriptedEngine) -> Service:
    """A service on the scripted engine."""
    service = Service(FACTS, Letters(), engine, lambda: 1, SystemClock())  # type: ignore[arg-type]
    engine.service = service
    return service


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine with a deadline."""
    asyncio.run(asyncio.wait_for(main(), 30))


def execute(**fields: Any) -> ExecuteRequest:
    """A checked body."""
    return parse_execute({"job_id": "j", "prompt": "prompt", "max_tokens": 3, "seed": 5, **fields})


def test_every_sampling_field_reaches_the_engine() -> None:
    """What the body says is what the tokens are drawn with."""

    async def main() -> None:
        engine = ScriptedEngine()
        fields = {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.1}
        more = {"presence_penalty": -2, "frequency_penalty": 1.5, "logprobs": 0}
        await service_over(engine).open(execute(**fields, **more, logit_bias={"299": -100, "7": 1}))
        expected = SamplingParams(
            temperature=0.5,
            top_k=3,
            top_p=0.9,
            min_p=0.1,
            repetition_penalty=1.1,
            presence_penalty=-2.0,
            frequency_penalty=1.5,
            logit_bias=((7, 1.0), (299, -100.0)),
            logprobs=0,
            seed=5,
        )
        assert [submission.sampling for submission in engine.given] == [expected]

    run(main)


def test_a_bias_of_a_token_that_the_model_has_not_is_refused() -> None:
    """An id past the vocabulary is a 400, and the slot is free again."""

    async def main() -> None:
        service = service_over(ScriptedEngine())
        with pytest.raises(InvalidRequest, match="logit_bias"):
            await service.open(execute(logit_bias={"300": 1}))
        assert service.slots_busy == 0

    run(main)


def test_the_prompt_s_digests_wait_on_the_outlet() -> None:
    """The engine learns by them what it keeps in its cache; the heartbeat says which are there still."""

    async def main() -> None:
        engine = ScriptedEngine()
        service = service_over(engine)
        opened = await service.open(execute(prompt="x" * 1200))
        assert opened.labels == prefix.digests("x" * 1200, ()) and len(opened.labels) == 2
        assert service.prefixes() == ()
        engine.progress.labels = tuple(f"{n:016x}" for n in range(100))
        assert service.prefixes() == engine.progress.labels[:64]

    run(main)


async def frames_of(**fields: Any) -> list[bytes]:
    """The token frames of a job, through real HTTP."""
    service = service_over(ScriptedEngine())
    app = routes.build(service, guard=None, drain=service.drain, shut_down=service.abandon)
    listener, sock = Listener(app, 100), bound_socket("127.0.0.1", 0)
    await listener.start(sock)
    try:
        async with ClientSession() as session:
            url = f"http://127.0.0.1:{sock.getsockname()[1]}/execute"
            async with session.post(url, json={"job_id": "j", "prompt": "p", **fields}) as answer:
                assert answer.status == 200
                frames = sse.FrameSplitter().feed(await answer.read())
    finally:
        await listener.stop()
    return [frame for frame in frames if sse.frame_type(frame) == "token"]


def test_frames_carry_what_was_asked() -> None:
    """One entry per id, figures that JSON can hold, and the relay passes the frame on byte for byte."""

    async def main() -> None:
        first, second = await frames_of(logprobs=3)
        event = sse.payload(first)
        assert event["ids"] == [97, 98] == [entry["id"] for entry in event["logprobs"]]
        assert event["logprobs"][0] == {
            "id": 97,
            "logprob": -0.123457,
            "top": [{"id": 200, "logprob": -0.5}, {"id": 201, "logprob": -1.5}, {"id": 202, "logprob": -9999.0}],
        }
        assert [entry["id"] for entry in sse.payload(second)["logprobs"]] == [99]
        for index, frame in enumerate((first, second)):
            assert sse.plain_token(frame, index) == frame
        alone = await frames_of(logprobs=0)
        assert [entry["top"] for entry in sse.payload(alone[0])["logprobs"]] == [[], []]

    run(main)


def test_frames_say_nothing_unasked() -> None:
    """Without the field a frame is what it always was."""

    async def main() -> None:
        assert [json.loads(frame[6:]) for frame in await frames_of()] == [
            {"type": "token", "t": "ab", "i": 0, "ids": [97, 98]},
            {"type": "token", "t": "c", "i": 1, "ids": [99]},
        ]

    run(main)


def test_a_backlog_keeps_ids_and_figures_together() -> None:
    """Portions that are merged stay aligned, and none outgrows a frame."""

    async def main() -> None:
        taker = Outlet("j", 0.0, resumed=0)
        count = outlet.PIECES_MAX * 4
        for n in range(count):
            top = tuple((123_456 + k, -10.123456) for k in range(20))
            taker.take_in(Update(taker, Piece("x", (n,)), 1, n + 1, 1.0, logprobs=(Drawn(n, -0.5, top),)))
        portions = taker.take()
        assert [token_id for portion in portions for token_id in portion.token_ids] == list(range(count))
        assert len(portions) < outlet.PIECES_MAX + count // outlet.LOGPROBS_A_PORTION_MAX + 1
        for portion in portions:
            assert portion.token_ids == tuple(drawn.token_id for drawn in portion.logprobs)
            assert len(portion.logprobs) <= outlet.LOGPROBS_A_PORTION_MAX

    run(main)


def test_metrics_tell_what_the_engine_counts() -> None:
    """Cache look-ups, drafts, preemptions and blocks are there, with their kind."""

    async def main() -> None:
        engine = ScriptedEngine()
        service = service_over(engine)
        engine.progress.counts = Counts(
            prompt_tokens_looked_up=10,
            prompt_tokens_reused=4,
            drafted=5,
            accepted=3,
            preempted=2,
            blocks_used=7,
            blocks_total=8,
        )
        lines = routes.metrics_text(service).splitlines()
        for name, kind, value in (
            ("prefix_lookup_tokens_total", "counter", 10),
            ("prefix_reused_tokens_total", "counter", 4),
            ("drafted_tokens_total", "counter", 5),
            ("accepted_tokens_total", "counter", 3),
            ("preemptions_total", "counter", 2),
            ("kv_blocks_used", "gauge", 7),
            ("kv_blocks_total", "gauge", 8),
        ):
            assert f"# TYPE llorch_worker_{name} {kind}" in lines
            assert f"llorch_worker_{name} {value}" in lines

    run(main)
