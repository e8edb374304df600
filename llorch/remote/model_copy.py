"""`llorch pool models copy ID --from A --to B`: a model from one pool to another, with this machine as go-between.

Pool A serves the files for as long as the copy takes, pool B fetches them over the LAN; token and checksums travel
through the two SSH sessions. Where B cannot reach A, the bytes go through this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

from llorch.base.addresses import is_loopback
from llorch.base.commands import Parser
from llorch.base.errors import LlorchError, Unreachable, UsageError
from llorch.host import quote, ssh
from llorch.host.ssh import Remote, Sink
from llorch.host.ssh_relay import LOOPBACK, relayed
from llorch.host.targets import SshTarget, find_target, find_targets
from llorch.remote import terminal

_LINE_BYTES_MAX = 1 << 20
_TOKEN_BYTES = 32


class Way(Enum):
    """How the bytes may go."""

    BEST = "best"  # over the LAN, through this machine where that cannot be
    RELAY = "relay"  # through this machine


class Form(Enum):
    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Served:
    """A model that a pool serves: where, the secret that opens it, and its catalog entry with the checksums."""

    url: str
    token: str
    model: Mapping[str, Any]

    def stdin_line(self) -> bytes:
        """What `models fetch` reads."""
        return json.dumps({"token": self.token, "model": self.model}).encode() + b"\n"


def main(words: Sequence[str], config: Mapping[str, Any]) -> int:
    """Run `models copy WORDS`; 0 when every pool has the model, the pool's own exit code when there is one, else 1."""
    arguments = _parser().parse_args(list(words))
    source = find_target(arguments.source, config)
    targets = [target for target in find_targets(arguments.targets, config) if target.name != source.name]
    if not targets:
        raise UsageError("--from and --to name the same pool")
    return int(ssh.run_interruptible(lambda: _copy_to_all(source, targets, arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="llorch pool models copy",
        description="Copy a model from one pool to others, over the LAN, each file checked by its checksum.",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="ID")
    parser.add_argument("--from", dest="source", required=True, metavar="POOL", help="the pool that has the model")
    parser.add_argument("--to", dest="targets", required=True, action="append", metavar="POOL[,POOL …|all]")
    parser.add_argument("--relay", action="store_true", help="send the bytes through this machine")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.epilog = (
        "Killed half-way, the same command goes on. The source listens on a port of its own, for this copy only. "
        "Where the pools cannot reach each other, the bytes go through this machine and both its SSH connections: slow."
    )
    return parser


async def _copy_to_all(source: SshTarget, targets: Sequence[SshTarget], arguments: argparse.Namespace) -> int:
    """One after the other: they would share the source's disk and cable anyway."""
    form = Form.JSON if arguments.json else Form.TEXT
    way = Way.RELAY if arguments.relay else Way.BEST
    outcomes: dict[str, dict[str, Any]] = {}
    for target in targets:
        lines = bytearray()
        out = lines.extend if form is Form.JSON else _lead(target, targets, sys.stdout.buffer.write)
        err = _lead(target, targets, sys.stderr.buffer.write)
        try:
            code = await copy(source, target, arguments.model, way, form, out, err)
            outcomes[target.name] = {"exit_code": code, **_last_done(bytes(lines))}
        except LlorchError as error:
            terminal.tell(error.message)
            outcomes[target.name] = {"exit_code": error.exit_code, "error": error.message}
    if form is Form.JSON:
        terminal.write_json({"model": arguments.model, "from": source.name, "pools": outcomes})
    codes = [int(outcome["exit_code"]) for outcome in outcomes.values()]
    return codes[0] if len(codes) == 1 else int(any(codes))


def _lead(target: SshTarget, targets: Sequence[SshTarget], write: Any) -> Sink:
    """With several targets each chunk is led by the pool's name; one at a time writes."""

    def sink(data: bytes) -> None:
        if len(targets) > 1:
            data = b"".join(f"{target.name}: ".encode() + line for line in data.splitlines(keepends=True))
        write(data)
        sys.stdout.flush()
        sys.stderr.flush()

    return sink


def _last_done(lines: bytes) -> dict[str, Any]:
    """The `done` line among NDJSON; empty when there is none."""
    for line in reversed(lines.splitlines()):
        try:
            body = json.loads(line)
        except ValueError:
            continue
        if isinstance(body, dict) and body.get("type") == "done":
            return {"model": body.get("model"), "already": body.get("already")}
    return {}


async def copy(source: SshTarget, target: SshTarget, model: str, way: Way, form: Form, out: Sink, err: Sink) -> int:
    """Copy `model`; the exit code of the target's `models fetch`, whose output goes to the sinks.

    Raises LlorchError when a pool cannot be reached by SSH, or the source does not serve the model.
    """
    async with ssh.connect(source) as giver, ssh.connect(target) as taker:
        address = await giver.server_address()
        async with _serving(giver, model, address) as served:
            code = Unreachable.exit_code
            # A loopback address means another machine over there, and a stranger should not be shown our token.
            if way is Way.BEST and (not is_loopback(address) or is_loopback(await taker.server_address())):
                code = await _fetch(taker, served, served.url, form, out, err)
            if code != Unreachable.exit_code:
                return code
            terminal.tell(
                f"{target.name} does not reach {source.name}: the bytes go through this machine, which is slower"
                if way is Way.BEST
                else f"{source.name} to {target.name} through this machine"
            )
            parts = urlsplit(served.url)
            async with relayed(giver, parts.hostname or "", parts.port or 0, taker) as port:
                return await _fetch(taker, served, f"http://{LOOPBACK}:{port}", form, out, err)


@asynccontextmanager
async def _serving(giver: Remote, model: str, address: str) -> AsyncIterator[Served]:
    """`models serve` on the source while the block runs. Raises LlorchError, in its own words, if it does not start."""
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    first = _FirstLine()
    over = asyncio.Event()
    said = bytearray()
    argv = _argv(giver.target, ["models", "serve", model, "--once"])
    stdin = json.dumps({"token": token, "bind": address}).encode() + b"\n"
    try:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(giver.run(argv, out=first.feed, err=said.extend, stdin=stdin, open_until=over))
            watched: set[asyncio.Future[Any]] = {running, first.ready}
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if not first.ready.done():
                raise _not_served(giver.target, model, await running, bytes(said))
            body = json.loads(first.ready.result())
            yield Served(str(body["url"]), token, body["model"])
            over.set()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


def _not_served(source: SshTarget, model: str, code: int, said: bytes) -> LlorchError:
    reason = said.decode("utf-8", "replace").strip().removeprefix("llorch: ") or f"exit {code}"
    error = LlorchError(f"{source.name} does not serve {model}: {reason}")
    error.exit_code = code or 1
    return error


class _FirstLine:
    """Collects output until its first line is whole."""

    def __init__(self) -> None:
        self.ready: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._held = bytearray()

    def feed(self, data: bytes) -> None:
        """Bytes as they come. Raises LlorchError when the line does not end."""
        if self.ready.done():
            return
        self._held += data
        line, end, _ = self._held.partition(b"\n")
        if end:
            self.ready.set_result(bytes(line))
        elif len(self._held) > _LINE_BYTES_MAX:
            raise LlorchError("the source pool says something else than was expected; is its llorch another version?")


async def _fetch(taker: Remote, served: Served, url: str, form: Form, out: Sink, err: Sink) -> int:
    words = ["models", "fetch", url, *(["--json"] if form is Form.JSON else [])]
    return await taker.run(_argv(taker.target, words), out=out, err=err, stdin=served.stdin_line())


def _argv(target: SshTarget, words: Sequence[str]) -> list[str]:
    return quote.pool_argv(words, program=target.program, env=terminal.for_remote(os.environ))
