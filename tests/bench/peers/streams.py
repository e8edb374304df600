"""The client of the HTTP measurements, the same for both servers; they differ in a path, a body and a field.

Texts are generated greedily and no two requests share a beginning, so that no server can reuse what it computed before.
"""

from __future__ import annotations

import asyncio
import json
import sysconfig
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import aiohttp

from llorch.base.errors import HostError

RETRY_S = 0.005
STREAM_S = 300.0


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a server is asked for a text and how many tokens an event of the answer brings."""

    path: str
    body: Callable[[str, int], dict[str, Any]]
    tokens_in: Callable[[dict[str, Any]], int]


def _our_body(prompt: str, tokens: int) -> dict[str, Any]:
    return {"job_id": f"job-{uuid.uuid4()}", "prompt": prompt, "max_tokens": tokens, "temperature": 0.0, "seed": 1}


def _our_tokens(event: dict[str, Any]) -> int:
    if event["type"] == "error":
        raise HostError(f"the worker says: {event}")
    return len(event["ids"]) if event["type"] == "token" else 0


def _llama_body(prompt: str, tokens: int) -> dict[str, Any]:
    return {"prompt": prompt, "n_predict": tokens, "temperature": 0.0, "stream": True}


def _llama_tokens(event: dict[str, Any]) -> int:
    if "error" in event:
        raise HostError(f"llama-server says: {event['error']}")
    return 0 if event["stop"] else max(1, len(event.get("tokens", ())))


OURS = Dialect("/execute", _our_body, _our_tokens)
LLAMA_SERVER = Dialect("/completion", _llama_body, _llama_tokens)


@dataclass(slots=True)
class Timeline:
    """When a request was sent and when each of its tokens arrived."""

    sent: float = field(default_factory=perf_counter)
    arrivals: list[float] = field(default_factory=list)

    @property
    def first_s(self) -> float:
        """From sending to the first token."""
        return self.arrivals[0] - self.sent

    def gaps(self, begin: float, end: float) -> list[float]:
        """Times between arrivals, of the gaps that end between two moments."""
        pairs = zip(self.arrivals, self.arrivals[1:], strict=False)
        return [later - earlier for earlier, later in pairs if begin < later <= end and later > earlier]


@asynccontextmanager
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """A session without a limit on connections, each used once."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=STREAM_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield session


async def stream(
    session: aiohttp.ClientSession, url: str, dialect: Dialect, prompt: str, tokens: int, into: Timeline | None = None
) -> Timeline:
    """One request to its end. Raises HostError when it is refused."""
    timeline = into or Timeline()
    async with session.post(url + dialect.path, json=dialect.body(prompt, tokens)) as response:
        if response.status != 200:
            raise HostError(f"{url}{dialect.path} answered {response.status}: {(await response.text())[:200]}")
        async for line in response.content:
            if line.startswith(b"data: {"):
                count = dialect.tokens_in(json.loads(line[6:]))
                timeline.arrivals += [perf_counter()] * count
    return timeline


async def together(requests: list[tuple[str, str]], dialect: Dialect, tokens: int) -> float:
    """Tokens a second, over all, of requests (url, prompt) sent at once, from sending to the last token of the last."""
    async with client() as session:
        began = perf_counter()
        lines = await asyncio.gather(*(stream(session, url, dialect, prompt, tokens) for url, prompt in requests))
    short = [len(line.arrivals) for line in lines if len(line.arrivals) < tokens - 1]
    if short:
        raise HostError(f"{dialect.path}: a text of {tokens} tokens ended after {short[0]}")
    return sum(len(line.arrivals) for line in lines) / (max(line.arrivals[-1] for line in lines) - began)


async def first_token(url: str, dialect: Dialect, prompt: str, give_up_at: float) -> float:
    """When the first token came from a server that may not even listen yet. Raises HostError."""
    async with client() as session:
        while perf_counter() < give_up_at:
            try:
                return (await stream(session, url, dialect, prompt, 2)).arrivals[0]
            except aiohttp.ClientConnectorError:
                pass
            except HostError as problem:
                if " answered 503" not in problem.message:
                    raise
            await asyncio.sleep(RETRY_S)
    raise HostError(f"{url}: no token in time")


class Prompts:
    """Texts of a given number of tokens, cut from the Python library's sources; each begins elsewhere."""

    def __init__(self, directory: Path) -> None:
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        library = Path(sysconfig.get_path("stdlib"))
        text = "".join(path.read_text(encoding="utf-8", errors="ignore") for path in sorted(library.glob("[a-h]*.py")))
        self._ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        self._at = 0

    def take(self, tokens: int) -> str:
        """The next text of about so many tokens."""
        if self._at + tokens > len(self._ids):
            self._at = tokens // 2
        self._at += tokens
        return self._tokenizer.decode(self._ids[self._at - tokens : self._at])

    def count(self, text: str) -> int:
        """How many tokens a text is."""
        return len(self._tokenizer.encode(text).ids)
