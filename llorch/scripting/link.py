"""Our end of one child: start it with a script, put one question at a time, kill it when it does not answer in time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

from llorch.core.policy import Hook
from llorch.host.children import Child
from llorch.scripting.faults import ChildDied, ScriptFault
from llorch.scripting.signatures import in_order

START_LIMIT_S = 10.0
SCRIPT_MAX_BYTES = 64 << 10
LINE_MAX_BYTES = 256 << 10
_NONSENSE = "it answered what makes no sense"

# How the child is started; called each time, for it may lay out the one-folder copy. Raises HostError.
Command = Callable[[], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Reply:
    """A hook's return value, the processor time it took, and what it printed."""

    raw: object
    cpu_s: float
    printed: str


class _Lines(asyncio.Protocol):
    """The socket to the child: a line out, a line back. Written by hand so that an answer that has come counts as
    come, even when this process was too busy to look at it before the deadline."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._data = bytearray()
        self._awaited: asyncio.Future[bytes] | None = None
        self._closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is one without saying so

    def data_received(self, data: bytes) -> None:
        self._data += data
        if data.endswith(b"\n") or len(self._data) > LINE_MAX_BYTES:
            self._settle(bytes(self._data))
            self._data.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._settle(b"")

    def _settle(self, line: bytes) -> None:
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(line)

    async def exchange(self, line: bytes, limit_s: float) -> bytes:
        """Send a line and wait for the next; empty when the child hung up. Raises TimeoutError."""
        if self._closed or self._transport is None:
            return b""
        self._awaited = asyncio.get_running_loop().create_future()
        self._transport.write(line)
        done, _ = await asyncio.wait([self._awaited], timeout=limit_s)
        if not done:
            raise TimeoutError
        return self._awaited.result()

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()


class Link:
    """A child with an evaluated script. `hooks` are those it defines, `functions` all that stand at its top level."""

    def __init__(self, child: Child, lines: _Lines) -> None:
        self.pid = child.pid
        self.hooks: frozenset[Hook] = frozenset()
        self.functions: list[dict[str, Any]] = []
        self.printed = ""
        self._child, self._lines = child, lines
        self._asked = 0

    @classmethod
    async def open(cls, command: Command, source: str) -> Self:
        """Start a child and have it evaluate `source`. Raises ScriptFault, ChildDied, TimeoutError, HostError."""
        if len(source.encode("utf-8", "surrogatepass")) > SCRIPT_MAX_BYTES:
            raise ScriptFault(f"the script is larger than {SCRIPT_MAX_BYTES >> 10} KiB")
        child = Child(await asyncio.to_thread(command))
        _, lines = await asyncio.get_running_loop().create_unix_connection(_Lines, sock=child.channel)
        link, is_open = cls(child, lines), False
        try:
            told = await link._exchange({"source": source}, START_LIMIT_S)
            link.hooks = frozenset(Hook(name) for name in told["hooks"])
            link.functions, link.printed = told["functions"], told["printed"]
            is_open = True
        finally:
            if not is_open:
                await link.close()
        return link

    async def call(self, hook: Hook, arguments: Mapping[str, object], limit_s: float) -> Reply:
        """One question; never two at once. After TimeoutError or ChildDied the link must be closed.

        Raises ScriptFault, ChildDied, TimeoutError.
        """
        self._asked += 1
        question = {"id": self._asked, "hook": hook.value, "arguments": in_order(hook, arguments)}
        told = await self._exchange(question, limit_s)
        if told.get("id") != self._asked or "answer" not in told:
            raise ChildDied(_NONSENSE)
        return Reply(told["answer"], float(told.get("cpu_s", 0.0)), str(told.get("printed", "")))

    async def _exchange(self, message: Mapping[str, object], limit_s: float) -> dict[str, Any]:
        line = await self._lines.exchange(json.dumps(message).encode() + b"\n", limit_s)
        if not line:
            raise ChildDied(await asyncio.to_thread(self._child.reap))
        try:
            told = json.loads(line)
        except ValueError:
            raise ChildDied(_NONSENSE) from None
        if not isinstance(told, dict):
            raise ChildDied(_NONSENSE)
        if (fault := told.get("fault")) is not None:
            raise ScriptFault(fault["message"], fault["line"], fault["column"])
        return told

    async def close(self) -> None:
        """Kill the child and wait until it is gone. Raises HostError if it does not go."""
        self._child.kill()
        self._lines.close()
        await asyncio.shield(asyncio.to_thread(self._child.reap))
