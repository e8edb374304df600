"""The worker as its routes see it: which sequences live, who gets a slot, what ended lately, draining.

Everything here runs in the event loop; the step thread is behind `Engine`.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from llorch.base import ids
from llorch.base.clock import SystemClock
from llorch.base.errors import (
    ContextLengthExceeded,
    Draining,
    DuplicateJob,
    InvalidRequest,
    WorkerLost,
    WorkerUnavailable,
)
from llorch.batching.detokenize import TextStream
from llorch.batching.sequence import SamplingParams, StopReason
from llorch.wire import prefix
from llorch.wire.announce import PREFIXES_MAX
from llorch.wire.execute import ExecuteRequest
from llorch.wire.messages import Message
from llorch.wire.tasks import MAX_TOKENS_DEFAULT
from llorch.workerd.engine import Engine, Submission
from llorch.workerd.outlet import Ending, Outlet, Update

RECENT_MAX = 1024
RECENT_S = 600.0
SILENT_MAX_S = 30.0
BUSY_RETRY_S = 1.0
INLINE_BYTES_MAX = 4096


class State(Enum):
    READY = "ready"
    DRAINING = "draining"


class Known(Enum):
    """What the worker knows of a job id."""

    LIVE = "live"
    RECENT = "recent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Facts:
    """What does not change while the worker runs. `vocab_size` bounds the ids that may be computed."""

    worker_id: str
    model: str
    backend: str
    slots_total: int
    context_length: int
    vocab_size: int
    version: str
    protocol: int
    capabilities: dict[str, Any]


class Texts(Protocol):
    """Prompts into ids, ids into text; safe to use from several threads."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end a text."""
        ...

    def encode(self, prompt: str | None, messages: Sequence[Message]) -> tuple[int, ...]:
        """The ids of a raw prompt, or of messages put through the chat template."""
        ...

    def decode(self, token_ids: list[int]) -> str:
        """The text of ids."""
        ...


@dataclass(slots=True)
class Tally:
    """Counters for /metrics."""

    prompt_tokens: int = 0
    endings: collections.Counter[str] = field(default_factory=collections.Counter)


class Memory(Protocol):
    """Where the resident bytes of weights and cache are asked."""

    def __call__(self) -> int:
        """Bytes now."""
        ...


class Service:
    """Admission by free slot, the live outlets, and what ended lately."""

    def __init__(self, facts: Facts, texts: Texts, engine: Engine, memory: Memory, clock: SystemClock) -> None:
        self.facts = facts
        self.texts = texts
        self.engine = engine
        self.memory = memory
        self.clock = clock
        self.state = State.READY
        self.tally = Tally()
        self.started_at = clock.now()
        self.changed = asyncio.Event()
        self._live: dict[str, Outlet] = {}
        self._open: set[Outlet] = set()
        self._recent: collections.OrderedDict[str, float] = collections.OrderedDict()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def slots_busy(self) -> int:
        """Live sequences."""
        return len(self._live)

    @property
    def live_jobs(self) -> tuple[str, ...]:
        """Their job ids."""
        return tuple(self._live)

    def prefixes(self) -> tuple[str, ...]:
        """Digests of the beginnings that the cache still holds."""
        return self.engine.progress.labels[:PREFIXES_MAX]

    @property
    def silent_s(self) -> float:
        """Seconds without a finished step while there is work: the decode heartbeat."""
        return self.engine.progress.silent_s(self.clock.now())

    @property
    def stepping(self) -> bool:
        """False when the step thread has work and has not finished a step for long."""
        return self.silent_s < SILENT_MAX_S

    async def open(self, request: ExecuteRequest) -> Outlet:
        """Give the job a slot and hand it to the step thread.

        Raises Draining, DuplicateJob, WorkerUnavailable, InvalidRequest, ContextLengthExceeded. Whoever opened an
        outlet must close it.
        """
        if self.state is State.DRAINING:
            raise Draining("this worker is draining", retry_after_s=BUSY_RETRY_S)
        if request.job_id in self._live:
            raise DuplicateJob
        if len(self._live) >= self.facts.slots_total:
            raise WorkerUnavailable("no slot is free", retry_after_s=BUSY_RETRY_S)
        outlet = Outlet(request.job_id, self.clock.now(), len(request.resume.token_ids))
        self._live[request.job_id] = outlet
        self._open.add(outlet)
        self._idle.clear()
        admitted = False
        try:
            submission = await self._prepare(request, outlet)
            self.tally.prompt_tokens += len(submission.prompt_ids)
            self.engine.submit(submission)
            admitted = True
        finally:
            if not admitted:
                if self._live.get(request.job_id) is outlet:  # not so when it was cancelled and its id came again
                    del self._live[request.job_id]
                self._drop(outlet)
        return outlet

    def close(self, outlet: Outlet) -> None:
        """The reader is done with an outlet; a sequence that still lives is cancelled."""
        self._finish(outlet, Ending(StopReason.CANCELLED))
        self._drop(outlet)

    def finish(self, outlet: Outlet, ending: Ending) -> None:
        """End a live sequence from the loop's side: nothing more of it is sent, its slot is free after this step."""
        self._finish(outlet, ending)

    def cancel(self, job_id: str) -> Known:
        """The wish that a job ends; idempotent."""
        outlet = self._live.get(job_id)
        if outlet is not None:
            self._finish(outlet, Ending(StopReason.CANCELLED))
            return Known.LIVE
        ended_at = self._recent.get(job_id)
        recent = ended_at is not None and self.clock.now() - ended_at <= RECENT_S
        return Known.RECENT if recent else Known.UNKNOWN

    def drain(self) -> None:
        """Take nothing new."""
        self.state = State.DRAINING
        self.changed.set()

    async def until_idle(self) -> None:
        """Until no stream is open any more."""
        await self._idle.wait()

    def abandon(self) -> None:
        """End every live stream with a retriable error: somebody else has to go on with it."""
        for outlet in list(self._live.values()):
            self._finish(outlet, Ending(None, WorkerLost("the worker is shutting down")))

    def deliver(self, updates: list[Update]) -> None:
        """What the step thread publishes, in the loop."""
        for update in updates:
            update.outlet.take_in(update)
            if update.outlet.ending is not None:
                self._ended(update.outlet)

    async def count(self, prompt: str | None, messages: Sequence[Message]) -> tuple[int, ...]:
        """The ids of a prompt, for /tokenize."""
        return await self._encode(prompt, messages)

    def _finish(self, outlet: Outlet, ending: Ending) -> None:
        if outlet.ending is None:
            outlet.end(ending)
            self.engine.cancel(outlet)
            self._ended(outlet)

    def _ended(self, outlet: Outlet) -> None:
        if self._live.get(outlet.job_id) is not outlet:
            return
        del self._live[outlet.job_id]
        ending = outlet.ending
        assert ending is not None
        name = ending.error.code if ending.error is not None else ending.stop_reason.value if ending.stop_reason else ""
        self.tally.endings[name] += 1
        self._recent[outlet.job_id] = self.clock.now()
        self._recent.move_to_end(outlet.job_id)
        if len(self._recent) > RECENT_MAX:
            self._recent.popitem(last=False)

    def _drop(self, outlet: Outlet) -> None:
        self._open.discard(outlet)
        if not self._open:
            self._idle.set()

    async def _encode(self, prompt: str | None, messages: Sequence[Message]) -> tuple[int, ...]:
        size = len(prompt) if prompt is not None else sum(len(m.content) for m in messages)
        if size <= INLINE_BYTES_MAX:
            return self.texts.encode(prompt, messages)
        return await asyncio.to_thread(self.texts.encode, prompt, messages)

    async def _prepare(self, request: ExecuteRequest, outlet: Outlet) -> Submission:
        resumed = request.resume.token_ids
        if any(token_id >= self.facts.vocab_size for token_id in resumed) or request.resume.next_i > len(resumed):
            raise InvalidRequest("resume: token_ids must be ids of this model, and next_i at most their number")
        if any(token_id >= self.facts.vocab_size for token_id, _ in request.sampling.logit_bias):
            raise InvalidRequest(f"logit_bias: this model's token ids are below {self.facts.vocab_size}")
        prompt_ids = await self._encode(request.prompt, request.messages)
        if any(token_id >= self.facts.vocab_size for token_id in prompt_ids):
            # Some tokenizers know more tokens than their model has embeddings for: a step would fail for everybody.
            raise InvalidRequest("the prompt holds a token that this model does not have")
        outlet.prompt_tokens = len(prompt_ids)
        outlet.labels = prefix.digests(request.prompt, request.messages)
        outlet.seed = ids.new_seed() if request.sampling.seed is None else request.sampling.seed
        max_tokens = fit(len(prompt_ids), request.max_tokens, self.facts.context_length)
        text = await self._text_stream(prompt_ids, resumed, request.sampling.stop)
        sampling = SamplingParams(
            temperature=request.sampling.temperature,
            top_k=request.sampling.top_k,
            top_p=request.sampling.top_p,
            min_p=request.sampling.min_p,
            repetition_penalty=request.sampling.repetition_penalty,
            presence_penalty=request.sampling.presence_penalty,
            frequency_penalty=request.sampling.frequency_penalty,
            logit_bias=request.sampling.logit_bias,
            logprobs=request.sampling.logprobs,
            seed=outlet.seed,
        )
        return Submission(outlet, prompt_ids, resumed, max_tokens, sampling, self.texts.eos_ids, text, outlet.labels)

    async def _text_stream(
        self, prompt_ids: tuple[int, ...], resumed: tuple[int, ...], stop: tuple[str, ...]
    ) -> TextStream:
        def build() -> TextStream:
            return TextStream(self.texts.decode, stop=stop, context=prompt_ids, resumed_ids=resumed)

        return await asyncio.to_thread(build) if len(resumed) > INLINE_BYTES_MAX else build()


def fit(prompt_tokens: int, max_tokens: int | None, context_length: int) -> int:
    """`max_tokens`, by default 256 or what the context leaves. Raises ContextLengthExceeded, never truncates."""
    room = context_length - prompt_tokens
    if room < 1 or (max_tokens is not None and max_tokens > room):
        raise ContextLengthExceeded(
            f"{prompt_tokens} prompt tokens and max_tokens {max_tokens or 1} exceed the context of {context_length}",
            details={"prompt_tokens": prompt_tokens, "max_tokens": max_tokens, "context_length": context_length},
        )
    return min(MAX_TOKENS_DEFAULT, room) if max_tokens is None else max_tokens
