"""`llorch pool … --host H`: the same llorch-pool command, run over SSH on one host or on many at once."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from llorch.base import config
from llorch.base.errors import LlorchError, UsageError
from llorch.host import quote, runtime, ssh
from llorch.host.targets import SshTarget, find_targets
from llorch.remote import skew, terminal

if TYPE_CHECKING:
    from llorch.remote.lan import LanDownload
    from llorch.remote.spawn import Spawning

HOSTS_AT_ONCE_MAX = 16
OUTPUT_SIZE_MAX = 64 << 20
# What is done on one host: its output goes to the two sinks; the exit code. May raise LlorchError.
Work = Callable[[SshTarget, ssh.Sink, ssh.Sink], Awaitable[int]]
_HELP = """\
usage: llorch pool COMMAND [ARGUMENT ...] --host HOST[,HOST ...|all]
       llorch pool install|upgrade|rollback|uninstall --host HOST[,HOST ...|all]
       llorch pool register NAME --host HOST [--user USER] [--port N] [--path FILE]
       llorch pool models copy ID --from POOL --to POOL[,POOL ...|all]

Runs any llorch-pool command on other machines over SSH; without --host, on this one.
HOST is a registered short name, an alias of ~/.ssh/config, or a host name; 'all' is every registered pool.
"""


def forward(argv: list[str], *, prog: str) -> int:
    """Run the command on the hosts it names; the exit code of a single host is passed on, of several: 0 or 1."""
    if argv[:1] in (["models"], ["model"]) and argv[1:2] == ["copy"]:
        from llorch.remote import model_copy

        return model_copy.main(argv[2:], config.load_file(config.config_path(os.environ)))
    names, words = split_hosts(argv)
    if not names:
        sys.stdout.write(_HELP)
        if words and words[0] not in ("-h", "--help", "help"):
            raise UsageError(f"{prog} pool: --host is missing")
        return 0
    settings = config.load_file(config.config_path(os.environ))
    targets = find_targets(names, settings)
    shared = _Shared(words, _spawning(words, targets), _lan_download(words, settings))
    return on_each(targets, partial(_run, shared), gather="--json" in words)


def on_each(targets: Sequence[SshTarget], work: Work, *, gather: bool) -> int:
    """Do `work` on every host; a single one's exit code and output are passed on, several are told apart.

    `gather`: of several, the outputs become one JSON object.
    """
    if len(targets) == 1:
        return int(ssh.run_interruptible(lambda: _one(targets[0], work)))
    return int(ssh.run_interruptible(lambda: _many(targets, work, gather=gather)))


@dataclass(frozen=True, slots=True)
class _Shared:
    """What is the same for every host; the latter two are None for most commands."""

    words: Sequence[str]
    spawning: Spawning | None
    download: LanDownload | None


# Most commands need neither of the two, and need not wait for what they import.


def _spawning(words: Sequence[str], targets: Sequence[SshTarget]) -> Spawning | None:
    if words[1:2] != ["spawn"]:
        return None
    from llorch.remote import spawn

    return spawn.prepare(words, os.environ, all_tunnelled=all(target.tunnel for target in targets))


def _lan_download(words: Sequence[str], settings: Mapping[str, Any]) -> LanDownload | None:
    if words[1:2] != ["download"]:
        return None
    from llorch.remote import lan

    return lan.prepare(words, settings)


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


async def _run(shared: _Shared, target: SshTarget, out: ssh.Sink, err: ssh.Sink) -> int:
    words, stdin = shared.words, b""
    watch = skew.Watch() if list(words[:1]) == ["status"] else None

    def read_along(data: bytes) -> None:
        if watch is not None:
            watch.feed(data)
        out(data)

    if shared.download is not None:
        code = await shared.download.copy_to(target, out, err)
        if code is not None:
            return code
        words = shared.download.words
    if shared.spawning is not None and (shared.spawning.tunnel or target.tunnel):
        return await _spawn_tunnelled(shared.spawning, target, out, err)
    async with ssh.connect(target) as remote:
        if (spawning := shared.spawning) is not None:
            words, stdin = spawning.words, spawning.stdin_line(remote.local_address, await remote.server_address())
        env = {**terminal.for_remote(os.environ), **target.environment}
        argv = quote.pool_argv([*words, *_ours(words)], program=target.program, env=env)
        code = await remote.run(argv, out=read_along, err=err, stdin=stdin)
    if watch is not None and (warning := watch.warning(target.name)) is not None:
        terminal.tell(warning)
    return code


async def _spawn_tunnelled(spawning: Spawning, target: SshTarget, out: ssh.Sink, err: ssh.Sink) -> int:
    """Start a worker on the loopback over there, then have orchestratord reach it by the tunnel that it keeps."""
    from llorch.remote import spawn

    wanted = await asyncio.to_thread(spawn.tunnelled, spawning, target.name)
    env = {**terminal.for_remote(os.environ), **target.environment}
    async with ssh.connect(target) as remote:
        argv = quote.pool_argv(wanted.words, program=target.program, env=env)
        code = await remote.run(argv, out=out, err=err, stdin=wanted.stdin)
        if code != 0:
            return code
        listed = await remote.ask(quote.pool_argv(wanted.list_words(), program=target.program, env=env))
    await asyncio.to_thread(wanted.tell_orchestrator, listed.out)
    return 0


def _ours(words: Sequence[str]) -> list[str]:
    """What a doctor over there compares its host with."""
    if list(words[:1]) != ["doctor"] or any(word in ("-h", "--help") for word in words):
        return []
    facts = runtime.version_facts()
    return ["--caller-clock", f"{time.time():.3f}", "--caller-version", f"{facts['version']}+{facts['build_id']}"]


async def _one(target: SshTarget, work: Work) -> int:
    """Output and exit code pass through unchanged."""

    def sink(stream: BinaryIO) -> ssh.Sink:
        def write(data: bytes) -> None:
            stream.write(data)
            stream.flush()

        return write

    return await work(target, sink(sys.stdout.buffer), sink(sys.stderr.buffer))


@dataclass
class _Outcome:
    """How one of several hosts did."""

    target: SshTarget
    exit_code: int = 0
    failure: str | None = None
    output: bytearray = field(default_factory=bytearray)


async def _many(targets: Sequence[SshTarget], work: Work, *, gather: bool) -> int:
    """All hosts side by side: lines led by `host: `, a summary at the end, 1 when any failed."""
    turn = asyncio.Semaphore(HOSTS_AT_ONCE_MAX)
    outcomes = [_Outcome(target) for target in targets]
    async with asyncio.TaskGroup() as tasks:
        for outcome in outcomes:
            tasks.create_task(_one_of_many(outcome, work, turn, gather=gather))
    if gather:
        print(json.dumps({o.target.name: _as_json(o) for o in outcomes}, ensure_ascii=False))
    failed = [o for o in outcomes if o.exit_code != 0]
    if failed:
        why = ", ".join(f"{o.target.name}: exit {o.exit_code}" for o in failed)
        terminal.tell(f"{len(outcomes)} hosts, {len(failed)} failed ({why})")
        return 1
    terminal.tell(f"{len(outcomes)} hosts, all ok")
    return 0


async def _one_of_many(outcome: _Outcome, work: Work, turn: asyncio.Semaphore, *, gather: bool) -> None:
    name = outcome.target.name
    out, err = _Prefixed(name, sys.stdout.buffer), _Prefixed(name, sys.stderr.buffer)

    def keep(data: bytes) -> None:
        if len(outcome.output) + len(data) > OUTPUT_SIZE_MAX:
            raise LlorchError(f"{name}: the output is too large")
        outcome.output += data

    try:
        async with turn:
            outcome.exit_code = await work(outcome.target, keep if gather else out.write, err.write)
    except LlorchError as error:
        outcome.exit_code, outcome.failure = error.exit_code, error.message
        lead = "" if error.message.startswith(f"{name}: ") else f"{name}: "
        terminal.tell(lead + error.message)
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
