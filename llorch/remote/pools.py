"""`llorch pool … --host H`: the same llorch-pool command, run over SSH on one host or on many at once."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from llorch.base import config
from llorch.base.errors import LlorchError, UsageError
from llorch.host import quote, runtime, ssh
from llorch.host.targets import SshTarget, find_targets
from llorch.remote import spawn, terminal

HOSTS_AT_ONCE_MAX = 16
OUTPUT_SIZE_MAX = 64 << 20
_HELP = """\
usage: llorch pool COMMAND [ARGUMENT ...] --host HOST[,HOST ...|all]
       llorch pool register NAME --host HOST [--user USER] [--port N] [--path FILE]

Runs any llorch-pool command on other machines over SSH; without --host, on this one.
HOST is a registered short name, an alias of ~/.ssh/config, or a host name; 'all' is every registered pool.
"""


def forward(argv: list[str], *, prog: str) -> int:
    """Run the command on the hosts it names; the exit code of a single host is passed on, of several: 0 or 1."""
    names, words = split_hosts(argv)
    if not names:
        sys.stdout.write(_HELP)
        if words and words[0] not in ("-h", "--help", "help"):
            raise UsageError(f"{prog} pool: --host is missing")
        return 0
    targets = find_targets(names, config.load_file(config.config_path(os.environ)))
    spawning = spawn.prepare(words, os.environ)
    if len(targets) == 1:
        return int(ssh.run_interruptible(lambda: _one(targets[0], words, spawning)))
    return int(ssh.run_interruptible(lambda: _many(targets, words, spawning)))


def split_hosts(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The values of --host, wherever they stand, and all other words in order. Raises UsageError."""
    names: list[str] = []
    words: list[str] = []
    rest = iter(argv)
    for word in rest:
        if word == "--":
            words += [word, *rest]
        elif word == "--host":
            value = next(rest, None)
            if value is None:
                raise UsageError("--host needs a host name")
            names.append(value)
        elif word.startswith("--host="):
            names.append(word.removeprefix("--host="))
        else:
            words.append(word)
    return names, words


async def _run(
    target: SshTarget, words: Sequence[str], spawning: spawn.Spawning | None, out: ssh.Sink, err: ssh.Sink
) -> int:
    async with ssh.connect(target) as remote:
        stdin = b""
        if spawning is not None:
            words, stdin = spawning.words, spawning.stdin_line(remote.local_address, await remote.server_address())
        argv = quote.pool_argv([*words, *_ours(words)], program=target.program, env=terminal.for_remote(os.environ))
        return await remote.run(argv, out=out, err=err, stdin=stdin)


def _ours(words: Sequence[str]) -> list[str]:
    """What a doctor over there compares its host with."""
    if list(words[:1]) != ["doctor"] or any(word in ("-h", "--help") for word in words):
        return []
    facts = runtime.version_facts()
    return ["--caller-clock", f"{time.time():.3f}", "--caller-version", f"{facts['version']}+{facts['build_id']}"]


async def _one(target: SshTarget, words: Sequence[str], spawning: spawn.Spawning | None) -> int:
    """Output and exit code pass through unchanged."""

    def sink(stream: BinaryIO) -> ssh.Sink:
        def write(data: bytes) -> None:
            stream.write(data)
            stream.flush()

        return write

    return await _run(target, words, spawning, sink(sys.stdout.buffer), sink(sys.stderr.buffer))


@dataclass
class _Outcome:
    """How one of several hosts did."""

    target: SshTarget
    exit_code: int = 0
    failure: str | None = None
    output: bytearray = field(default_factory=bytearray)


async def _many(targets: Sequence[SshTarget], words: Sequence[str], spawning: spawn.Spawning | None) -> int:
    """All hosts side by side: lines led by `host: `, a summary at the end, 1 when any failed.

    With --json the outputs are gathered into one object per host instead.
    """
    gather = "--json" in words
    turn = asyncio.Semaphore(HOSTS_AT_ONCE_MAX)
    outcomes = [_Outcome(target) for target in targets]
    async with asyncio.TaskGroup() as tasks:
        for outcome in outcomes:
            tasks.create_task(_one_of_many(outcome, words, spawning, turn, gather=gather))
    if gather:
        print(json.dumps({o.target.name: _as_json(o) for o in outcomes}, ensure_ascii=False))
    failed = [o for o in outcomes if o.exit_code != 0]
    if failed:
        why = ", ".join(f"{o.target.name}: exit {o.exit_code}" for o in failed)
        terminal.tell(f"{len(outcomes)} hosts, {len(failed)} failed ({why})")
        return 1
    terminal.tell(f"{len(outcomes)} hosts, all ok")
    return 0


async def _one_of_many(
    outcome: _Outcome, words: Sequence[str], spawning: spawn.Spawning | None, turn: asyncio.Semaphore, *, gather: bool
) -> None:
    name = outcome.target.name
    out, err = _Prefixed(name, sys.stdout.buffer), _Prefixed(name, sys.stderr.buffer)

    def keep(data: bytes) -> None:
        if len(outcome.output) + len(data) > OUTPUT_SIZE_MAX:
            raise LlorchError(f"{name}: the output is too large")
        outcome.output += data

    try:
        async with turn:
            sink = keep if gather else out.write
            outcome.exit_code = await _run(outcome.target, words, spawning, sink, err.write)
    except LlorchError as error:
        outcome.exit_code, outcome.failure = error.exit_code, error.message
        terminal.tell(error.message)
    finally:
        out.finish()
        err.finish()


def _as_json(outcome: _Outcome) -> dict[str, object]:
    """One host's part of the gathered answer; output that is not JSON is given as text."""
    text = outcome.output.decode("utf-8", "replace")
    try:
        value: object = json.loads(text) if text else None
    except ValueError:
        value = text
    answer: dict[str, object] = {"exit_code": outcome.exit_code, "output": value}
    if outcome.failure is not None:
        answer["error"] = outcome.failure
    return answer


class _Prefixed:
    """Writes whole lines, each led by the host's name, so that hosts never mix within a line."""

    def __init__(self, name: str, stream: BinaryIO) -> None:
        self._lead = f"{name}: ".encode()
        self._stream = stream
        self._rest = b""

    def write(self, data: bytes) -> None:
        """Bytes as they come; a carriage return ends a line, too (a progress bar's)."""
        *lines, self._rest = (self._rest + data).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._stream.write(self._lead + line + b"\n")
        if lines:
            self._stream.flush()

    def finish(self) -> None:
        """Write what has no line end."""
        if self._rest:
            self.write(b"\n")
