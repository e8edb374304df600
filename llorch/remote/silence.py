"""While an answer is awaited: a job whose last worker is gone waits without a word, and its client should know why."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from llorch.base.errors import LlorchError
from llorch.client.sync import Client
from llorch.remote import served, terminal

SILENCE_S = 3.0


class Silence:
    """Looks at the workers when nothing was heard for a while, and says once that nobody serves the model."""

    def __init__(self, client: Client, model: str, *, after_s: float = SILENCE_S) -> None:
        self._client = client
        self._model = model
        self._after_s = after_s
        self._events = 0
        self._is_loading = False
        self._is_mid_line = False
        self._over = threading.Event()

    def heard(self, *, is_loading: bool = False, is_mid_line: bool = False) -> None:
        """Something came. `is_loading`: orchestratord brings a worker; `is_mid_line`: the cursor is in a line."""
        self._events += 1
        self._is_loading = is_loading
        self._is_mid_line = is_mid_line

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch while the block runs."""
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            yield
        finally:
            self._over.set()

    def _watch(self) -> None:
        seen = told = -1
        while not self._over.wait(self._after_s):
            quiet = self._events == seen
            seen = self._events
            if quiet and told != seen and not self._is_loading and self._nobody():
                told = seen
                self._tell()

    def _nobody(self) -> bool:
        """Has orchestratord no worker for it? Where it does not answer, the stream will say so."""
        try:
            return not served.ready(self._client, self._model)
        except LlorchError:
            return False

    def _tell(self) -> None:
        if self._over.is_set():
            return
        if self._is_mid_line:
            print("", file=sys.stderr)
        terminal.tell(
            f"no worker serves {self._model} any more; the answer waits for one. "
            "Ctrl-C and the same again start one (why it ended: llorch pool worker logs ID; ID: llorch status)"
        )
