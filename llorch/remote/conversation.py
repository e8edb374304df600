"""A conversation with one model: its turns so far, and asking for the next answer as one job of orchestratord."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from llorch.base import ids
from llorch.base.errors import LlorchError
from llorch.client.events import End, ErrorEvent, Loading, Queued, Started, Token
from llorch.client.request import InferenceRequest
from llorch.client.sync import Client
from llorch.host import runtime
from llorch.remote import terminal
from llorch.remote.silence import Silence
from llorch.wire.tasks import Placement


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. `ttft_s` counts from the question, `first_token_s` from the start of this command."""

    text: str
    end: End
    job_id: str
    worker_id: str | None
    ttft_s: float | None
    first_token_s: float | None


class Conversation:
    """Keeps the turns; a turn counts once something was answered."""

    def __init__(
        self,
        client: Client,
        model: str,
        *,
        worker_id: str | None = None,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
    ) -> None:
        """`worker_id`: only this worker may answer. None of the others leaves the choice to orchestratord."""
        self._client = client
        self.model = model
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self._turns: list[dict[str, str]] = []
        self._placement = _pinned(worker_id)
        self._max_tokens, self._temperature, self._seed = max_tokens, temperature, seed

    @property
    def has_turns(self) -> bool:
        """Was anything answered yet?"""
        return bool(self._turns)

    def go_on_at(self, client: Client, worker_id: str | None) -> None:
        """From now on ask this orchestratord, and only this worker if one is named."""
        self._client = client
        self._placement = _pinned(worker_id)

    def clear(self) -> None:
        """Begin anew; what --system said stays."""
        self._turns.clear()

    def ask(self, text: str, write: Callable[[str], None] | None) -> Reply:
        """The answer to `text`, given to `write` piece by piece. Raises LlorchError.

        Interrupted, the job is cancelled, and what was said until then is kept as its answer.
        """
        began = time.monotonic()
        ttft_s: float | None = None
        first_token_s: float | None = None
        worker_id: str | None = None
        pieces: list[str] = []
        silence = Silence(self._client, self.model)
        try:
            with self._client.stream(self._request(text)) as events, silence.watched():
                for event in events:
                    mid_line = write is not None and bool(pieces)
                    silence.heard(is_loading=isinstance(event, Loading), is_mid_line=mid_line)
                    if isinstance(event, Token):
                        if ttft_s is None:
                            ttft_s, first_token_s = time.monotonic() - began, runtime.seconds_since_start()
                        pieces.append(event.t)
                        if write is not None:
                            write(event.t)
                    elif isinstance(event, Started):
                        worker_id = event.worker_id
                    elif isinstance(event, (Queued, Loading)):
                        _tell_waiting(event)
                    elif isinstance(event, ErrorEvent):
                        raise event.to_error()
                    elif isinstance(event, End):
                        if first_token_s is None:  # the model's first word was that it has nothing to say
                            first_token_s = runtime.seconds_since_start()
                        return Reply("".join(pieces), event, events.job_id, worker_id, ttft_s, first_token_s)
            raise LlorchError("the stream ended without saying how")
        finally:
            if pieces:
                said = {"role": "assistant", "content": "".join(pieces)}
                self._turns += [{"role": "user", "content": text}, said]

    def _request(self, text: str) -> InferenceRequest:
        return InferenceRequest(
            messages=[*self._system, *self._turns, {"role": "user", "content": text}],
            model=self.model,
            max_tokens=self._max_tokens,
            temperature=self._temperature,
            seed=self._seed,
            placement=self._placement,
            idempotency_key=ids.new_idempotency_key(),
        )


def _pinned(worker_id: str | None) -> Placement | None:
    return None if worker_id is None else Placement(pin_worker=worker_id)


def _tell_waiting(event: Queued | Loading) -> None:
    if isinstance(event, Loading):
        if event.progress == 0:
            terminal.tell(f"{event.model} is being loaded")
    elif event.queue_position > 0:
        terminal.tell(f"{event.queue_position} ahead in the queue")
