"""The step thread and its hand-over, with a runner that is scripted instead of a model."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from aiohttp import ClientSession
from letters import Letters

from llorch.base.clock import SystemClock
from llorch.base.errors import InvalidRequest
from llorch.batching.detokenize import Piece, TextStream
from llorch.batching.plan import Draw, Drawn, Interrupted, StepPlan
from llorch.batching.planner import Planner
from llorch.batching.sequence import SamplingParams, StopReason
from llorch.web.listening import Listener
from llorch.web.sockets import bound_socket
from llorch.wire.execute import ExecuteRequest, Resume
from llorch.wire.sampling import Sampling
from llorch.wire.sse import EventReader
from llorch.workerd import execute, outlet, routes, service
from llorch.workerd.engine import FAILURES_MAX, INTERRUPTIBLE_TOKENS_MIN, Engine, Submission
from llorch.workerd.outlet import Ending, Outlet, Taken, Update
from llorch.workerd.service import Facts, Known, Service

FACTS = Facts("w", "letters", "cpu", 4, 1_000_000, 300, "0", 1, {})


class Alphabet:
    """A runner that writes the alphabet over and over; `before` may block or fail a step."""

    def __init__(self, before: Callable[[int], None] = lambda step: None) -> None:
        self.before = before
        self.steps = 0
        self.interrupted = threading.Event()

    def run(self, plan: StepPlan) -> list[tuple[Drawn, ...]]:
        self.steps += 1
        self.before(self.steps)
        return [tuple(map(letter, row.draws)) for row in plan.rows]

    def interrupt(self) -> None:
        self.interrupted.set()


def letter(draw: Draw) -> Drawn:
    """The letter of an index, with a logprob that tells the index when one is wanted."""
    token_id = ord("a") + draw.index % 26
    return Drawn(token_id) if draw.params.logprobs is None else Drawn(token_id, -float(draw.index))


class Rig:
    """A service over a scripted runner, inside a running loop."""

    def __init__(self, runner: Alphabet) -> None:
        loop = asyncio.get_running_loop()
        self.died = asyncio.Event()
        self.engine = Engine(
            Planner(slots=FACTS.slots_total, context=FACTS.context_length),
            runner,
            SystemClock(),
            publish=lambda updates: loop.call_soon_threadsafe(self.service.deliver, updates) and None,
            died=lambda: loop.call_soon_threadsafe(self.died.set) and None,
        )
        self.service = Service(FACTS, Letters(), self.engine, lambda: 1, SystemClock())
        self.engine.start()

    async def text(self, job_id: str = "j", **fields: Any) -> tuple[str, Ending]:
        """Run a job to its end."""
        opened = await self.service.open(request(job_id, **fields))
        text = ""
        try:
            while True:
                await opened.wait(5)
                text += "".join(piece.text for piece in opened.take())
                if opened.ending is not None:
                    return text, opened.ending
        finally:
            self.service.close(opened)


def request(
    job_id: str,
    max_tokens: int = 5,
    stop: tuple[str, ...] = (),
    resume: Resume | None = None,
    prompt: str = "prompt",
) -> ExecuteRequest:
    """An execute request for the alphabet."""
    return ExecuteRequest(job_id, prompt, (), max_tokens, Sampling(stop=stop), resume or Resume())


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine with a deadline."""
    asyncio.run(asyncio.wait_for(main(), 30))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the test's own deadline bounds it."""
    while not condition():  # noqa: ASYNC110  (what is waited for belongs to another thread)
        await asyncio.sleep(0.01)


def test_endings() -> None:
    """MAX_TOKENS and STOP_SEQUENCE end the text where they should; a complete resume ends at once."""

    async def main() -> None:
        rig = Rig(Alphabet())
        assert await rig.text() == ("abcde", Ending(StopReason.MAX_TOKENS))
        assert await rig.text(stop=("cd",)) == ("ab", Ending(StopReason.STOP_SEQUENCE))
        resume = Resume(tuple(b"abcd"), 4)
        assert await rig.text(resume=resume, stop=("cd",)) == ("", Ending(StopReason.STOP_SEQUENCE))
        assert await rig.text(resume=Resume(tuple(b"abc"), 3)) == ("de", Ending(StopReason.MAX_TOKENS))
        rig.engine.stop(5)

    run(main)


def test_a_failed_step_ends_its_jobs_and_the_worker_goes_on() -> None:
    """INFERENCE_FAILED for the sequences of the step; the next job works."""

    def fail_first(step: int) -> None:
        if step == 1:
            raise RuntimeError("out of memory\nwith a long story")

    async def main() -> None:
        rig = Rig(Alphabet(fail_first))
        _, ending = await rig.text("a")
        assert ending.error is not None and ending.error.code == "INFERENCE_FAILED"
        assert (await rig.text("b"))[0] == "abcde"
        assert rig.service.slots_busy == 0 and not rig.died.is_set()
        rig.engine.stop(5)

    run(main)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("failure", [RuntimeError("broken"), AssertionError("our bug")])
def test_a_dead_step_thread_is_reported(failure: Exception) -> None:
    """Steps that fail again and again, and bugs, end the thread; nobody takes it for alive."""

    def fail(step: int) -> None:
        raise failure

    async def main() -> None:
        rig = Rig(Alphabet(fail))
        for n in range(FAILURES_MAX):
            await rig.service.open(request(f"j{n}"))
            await asyncio.sleep(0.01)
        await rig.died.wait()

    run(main)


def test_the_heartbeat_tells_a_stuck_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a step hangs, the loop still answers, and says so; idle is not stuck."""
    monkeypatch.setattr(service, "SILENT_MAX_S", 0.05)

    async def main() -> None:
        hang = threading.Event()
        rig = Rig(Alphabet(lambda step: void(hang.wait(10))))
        assert rig.service.stepping
        opened = await rig.service.open(request("j"))
        await until(lambda: not rig.service.stepping)
        assert rig.service.silent_s > 0.05
        hang.set()
        await opened.wait(5)
        await until(lambda: rig.service.slots_busy == 0 and rig.service.silent_s == 0)
        assert rig.service.stepping
        rig.engine.stop(5)

    run(main)


def test_a_cancelled_id_may_come_back_before_its_step_ends() -> None:
    """Nothing of the old sequence reaches the new one with the same job id, nor is a slot lost."""

    async def main() -> None:
        go = threading.Semaphore(1)
        rig = Rig(Alphabet(lambda step: void(go.acquire(timeout=10))))
        old = await rig.service.open(request("same", max_tokens=1000))
        await old.wait(5)
        assert rig.service.cancel("same") is Known.LIVE
        rig.service.close(old)
        running = asyncio.ensure_future(rig.text("same"))
        await asyncio.sleep(0.01)
        go.release(100)
        assert (await running)[0] == "abcde"
        assert rig.service.cancel("same") is Known.RECENT and rig.service.cancel("other") is Known.UNKNOWN
        rig.engine.stop(5)

    run(main)


def test_tokens_that_the_model_does_not_have_are_refused() -> None:
    """A prompt or a resume with an id beyond the embedding is the client's error; no step fails, no slot is kept."""

    async def main() -> None:
        rig = Rig(Alphabet())
        beyond = chr(FACTS.vocab_size)
        for odd in (
            ExecuteRequest("p", f"once {beyond}", (), 5, Sampling(), Resume()),
            request("r", resume=Resume((ord("a"), FACTS.vocab_size), 0)),
        ):
            with pytest.raises(InvalidRequest):
                await rig.service.open(odd)
        assert rig.service.slots_busy == 0 and rig.engine.progress.failures == 0
        assert (await rig.text())[0] == "abcde"
        rig.engine.stop(5)

    run(main)


def test_drafts_past_a_stop_string_are_not_counted() -> None:
    """A step that draws several tokens ends the text at the stop string all the same, tokens_out included."""

    async def main() -> None:
        rig = Rig(Alphabet())
        alphabet = "abcdefghijklmnopqrstuvwxyz"
        for last, stop in enumerate(alphabet[3:], 4):
            opened = await rig.service.open(request(stop, max_tokens=60, stop=(stop,), prompt=alphabet * 2))
            text = ""
            while opened.ending is None:
                await opened.wait(5)
                text += "".join(piece.text for piece in opened.take())
            assert text == alphabet[: last - 1]
            assert opened.ending == Ending(StopReason.STOP_SEQUENCE) and opened.tokens_out == opened.drawn == last
            rig.service.close(opened)
        counts = rig.engine.progress.counts
        assert counts.accepted > 50 and counts.prompt_tokens_reused > 20 * 51
        rig.engine.stop(5)

    run(main)


def test_logprobs_come_with_their_text() -> None:
    """Held-back text holds its draws back, too: each update's draws are those of its piece."""

    async def main() -> None:
        updates: list[Update] = []
        ended = threading.Event()

        def publish(batch: list[Update]) -> None:
            updates.extend(batch)
            if batch[-1].ending is not None:
                ended.set()

        engine = Engine(Planner(slots=1, context=1000), Alphabet(), SystemClock(), publish=publish, died=ended.set)
        engine.start()
        texts = Letters()
        for logprobs, stop, expected in ((2, ("cdx", "ghi"), "abcdefghi"), (0, (), "abcdefghij"), (None, (), "")):
            updates.clear()
            ended.clear()
            engine.submit(
                Submission(
                    outlet=Outlet("j", 0.0, resumed=0),
                    prompt_ids=(1, 2, 3),
                    resumed_ids=(),
                    max_tokens=10,
                    sampling=SamplingParams(logprobs=logprobs),
                    eos_ids=texts.eos_ids,
                    text=TextStream(texts.decode, stop=stop),
                )
            )
            assert await asyncio.to_thread(ended.wait, 5)
            for update in updates:
                assert update.piece is not None or not update.logprobs
                if update.piece is not None and logprobs is not None:
                    assert tuple(one.token_id for one in update.logprobs) == update.piece.token_ids
            drawn = [one for update in updates for one in update.logprobs]
            assert "".join(chr(one.token_id) for one in drawn) == expected
            assert [one.logprob for one in drawn] == [-float(index) for index in range(len(expected))]
        engine.stop(5)

    run(main)


@pytest.mark.parametrize("length", [INTERRUPTIBLE_TOKENS_MIN, INTERRUPTIBLE_TOKENS_MIN - 1])
def test_a_long_prefill_is_not_computed_for_nobody(length: int) -> None:
    """Its cancel interrupts the step, and others go on as if nothing had been; a short one is waited for."""

    async def main() -> None:
        begun, go_on = threading.Event(), threading.Event()

        def wait_in_first(step: int) -> None:
            if step == 1:
                begun.set()
                assert go_on.wait(5)
                if runner.interrupted.is_set():
                    raise Interrupted

        runner = Alphabet(wait_in_first)
        rig = Rig(runner)
        opened = await rig.service.open(request("long", prompt="x" * length))
        assert await asyncio.to_thread(begun.wait, 5)
        other = asyncio.ensure_future(rig.text("other"))
        await asyncio.sleep(0)
        assert rig.service.cancel("long") is Known.LIVE
        assert runner.interrupted.is_set() == (length >= INTERRUPTIBLE_TOKENS_MIN)
        go_on.set()
        assert (await other) == ("abcde", Ending(StopReason.MAX_TOKENS))
        rig.service.close(opened)
        assert rig.service.slots_busy == 0 and rig.engine.progress.failures == 0
        rig.engine.stop(5)

    run(main)


def test_progress_tells_what_the_cache_holds() -> None:
    """Counters and labels are there for whoever asks, also after the last step."""

    async def main() -> None:
        rig = Rig(Alphabet())
        assert rig.engine.progress.counts.blocks_total > 0
        await rig.text("a", prompt="x" * 300)
        await rig.text("b", prompt="x" * 300)
        counts = rig.engine.progress.counts
        assert (counts.prompt_tokens_looked_up, counts.prompt_tokens_reused) == (600, 299)
        assert counts.blocks_used == counts.blocks_idle == 3
        rig.engine.stop(5)

    run(main)


def test_no_token_follows_a_cancel() -> None:
    """What was not taken before the cancel is not sent, and tokens_out counts only what was."""

    async def main() -> None:
        taker = Outlet("j", 0.0, resumed=3)
        taker.take_in(Update(taker, Piece("ab", (1, 2)), 2, 5, 1.0))
        assert [piece.text for piece in taker.take()] == ["ab"]
        taker.take_in(Update(taker, Piece("c", (3,)), 1, 6, 1.1))
        taker.end(Ending(StopReason.CANCELLED))
        taker.take_in(Update(taker, Piece("d", (4,)), 1, 7, 1.2, Ending(StopReason.MAX_TOKENS)))
        assert taker.take() == [] and taker.tokens_out == 5
        assert taker.ending == Ending(StopReason.CANCELLED)

    run(main)


def test_the_backlog_is_bounded_and_loses_nothing() -> None:
    """A reader who stands still costs a bounded number of pieces; all text and ids come when he reads."""

    async def main() -> None:
        taker = Outlet("j", 0.0, resumed=0)
        assert await taker.wait(0.01) is Taken.NOTHING
        count = outlet.PIECES_MAX * 5
        for n in range(count):
            taker.take_in(Update(taker, Piece(chr(97 + n % 26), (n,)), 1, n + 1, 1.0))
        assert await taker.wait(0.01) is Taken.SOMETHING
        pieces = taker.take()
        assert len(pieces) <= outlet.PIECES_MAX
        assert [i for piece in pieces for i in piece.token_ids] == list(range(count))
        assert len("".join(piece.text for piece in pieces)) == count

    run(main)


async def serving(rig: Rig) -> tuple[Listener, int]:
    """The real routes over a rig, on a free port."""
    app = routes.build(rig.service, guard=None, drain=rig.service.drain, shut_down=rig.service.abandon)
    listener, sock = Listener(app, 100), bound_socket("127.0.0.1", 0)
    await listener.start(sock)
    return listener, int(sock.getsockname()[1])


def test_a_reader_who_stands_still_is_cut_by_the_write_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """His connection is closed and his slot freed, while another stream on the same engine runs to its end."""
    monkeypatch.setattr(execute, "WRITE_DEADLINE_S", 0.3)

    async def main() -> None:
        rig = Rig(Alphabet())
        listener, port = await serving(rig)
        body = json.dumps({"job_id": "still", "prompt": "x", "max_tokens": 900_000}).encode()
        with socket.socket() as still:
            still.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            still.setblocking(False)
            await asyncio.get_running_loop().sock_connect(still, ("127.0.0.1", port))
            still.send(b"POST /execute HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await until(lambda: rig.service.slots_busy == 1)
            other = {"job_id": "other", "prompt": "x", "max_tokens": 500}
            url = f"http://127.0.0.1:{port}/execute"
            async with ClientSession() as session, session.post(url, json=other) as response:
                assert (await response.read()).count(b'"type":"end"') == 1
            await until(lambda: rig.service.slots_busy == 0)
        await listener.stop()
        rig.engine.stop(5)

    run(main)


def test_pings_while_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long prefill is bridged by comments, and the stream then goes on as usual."""
    monkeypatch.setattr(execute, "PING_S", 0.05)

    async def main() -> None:
        hang = threading.Event()
        rig = Rig(Alphabet(lambda step: void(hang.wait(10))))
        listener, port = await serving(rig)
        async with (
            ClientSession() as session,
            session.post(
                f"http://127.0.0.1:{port}/execute", json={"job_id": "p", "prompt": "x", "max_tokens": 3}
            ) as response,
        ):
            data = b""
            while data.count(b": ping\n\n") < 2:
                data += await response.content.readany()
            hang.set()
            data += await response.read()
        events = [event.data for event in EventReader().feed(data)]
        assert [event["type"] for event in events] == ["started", "token", "token", "token", "end"]
        await listener.stop()
        rig.engine.stop(5)

    run(main)


def void(_: object) -> None:
    """Drop a result."""
