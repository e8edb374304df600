"""llorch-pool on a pool, run by a daemon: on this host as a child process, elsewhere over SSH.

What is written to the command's stdin may be a secret; its stderr is passed on as it comes. When cancelled, the command
is interrupted first, so that it can undo what it began, and only then killed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from llorch.base.errors import HostError, TryLater
from llorch.host import quote, runtime, ssh
from llorch.host.process import clean_environment, prepared_stdin, source_path
from llorch.host.targets import SshTarget

OUTPUT_SIZE_MAX = 4 << 20
COMPLAINT_SIZE_MAX = 16 << 10
# What a spawn needs to end its worker first.
STOP_STEPS = ((signal.SIGINT, 8.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0))
KILL_AT_ONCE = ((signal.SIGKILL, 5.0),)
_PLAIN = {"LLORCH_UTF8": "0", "NO_COLOR": "1"}

Sink = Callable[[bytes], None]
StopSteps = tuple[tuple[signal.Signals, float], ...]


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended by itself; `err` is the end of what it said on stderr."""

    exit_code: int
    out: bytes
    err: bytes

    @property
    def complaint(self) -> str:
        """Its last line, where a failing command says why."""
        last = self.err.decode("utf-8", "replace").strip().rpartition("\n")[2].removeprefix("llorch: ")
        return last[:500] or f"llorch-pool ended with exit code {self.exit_code}"


@dataclass(frozen=True, slots=True)
class Ends:
    """The addresses of a session: ours (None: the pool does not see it), and the pool's own that was reached."""

    local: str | None
    server: str


class PoolSession(Protocol):
    """An open way to one pool."""

    async def ends(self) -> Ends:
        """Which addresses the two sides have."""
        ...

    async def run(self, words: Sequence[str], *, stdin: bytes = b"", heard: Sink | None = None) -> Done:
        """Run `llorch-pool WORDS`; `stdin` is at most 4 KiB, `heard` gets stderr as it comes.

        Raises HostError, SshFailed.
        """
        ...


class _Kept:
    """The beginning of one stream and the end of another, bounded."""

    def __init__(self, heard: Sink | None) -> None:
        self.out, self.err = bytearray(), bytearray()
        self._heard = heard

    def print(self, data: bytes) -> None:
        self.out.extend(data[: OUTPUT_SIZE_MAX - len(self.out)])

    def complain(self, data: bytes) -> None:
        self.err.extend(data)
        del self.err[:-COMPLAINT_SIZE_MAX]
        if self._heard is not None:
            self._heard(data)


class _Here:
    """This host: no SSH."""

    def __init__(self, stop_steps: StopSteps, look: Mapping[str, str]) -> None:
        self._stop_steps = stop_steps
        self._look = look

    async def ends(self) -> Ends:
        return Ends("127.0.0.1", "127.0.0.1")

    async def run(self, words: Sequence[str], *, stdin: bytes = b"", heard: Sink | None = None) -> Done:
        argv = [*await asyncio.to_thread(runtime.daemon_command, "llorch-pool"), *words]
        environment = {**clean_environment(), **source_path(), **self._look}
        pipe, kept = subprocess.PIPE, _Kept(heard)
        given = prepared_stdin(stdin or None)
        try:
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=given, stdout=pipe, stderr=pipe, cwd="/", env=environment, start_new_session=True
            )
        except OSError as error:
            raise HostError(f"cannot start {argv[0]}: {error.strerror or error}") from error
        finally:
            os.close(given)
        assert process.stdout is not None and process.stderr is not None
        try:
            await asyncio.gather(_pump(process.stdout, kept.print), _pump(process.stderr, kept.complain))
            code = await process.wait()
        finally:
            if process.returncode is None:
                await _stop(process, self._stop_steps)
        return Done(code if code >= 0 else 128 - code, bytes(kept.out), bytes(kept.err))


async def _pump(stream: asyncio.StreamReader, sink: Sink) -> None:
    while data := await stream.read(1 << 16):
        sink(data)


async def _stop(process: asyncio.subprocess.Process, steps: StopSteps) -> None:
    for number, wait_s in steps:
        with suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            async with asyncio.timeout(wait_s):
                await process.wait()
            return
        except TimeoutError:
            continue


class _There:
    """Another host, over an open SSH connection."""

    def __init__(self, target: SshTarget, remote: ssh.Remote, look: Mapping[str, str]) -> None:
        self._target = target
        self._remote = remote
        self._look = look

    async def ends(self) -> Ends:
        return Ends(self._remote.local_address, await self._remote.server_address())

    async def run(self, words: Sequence[str], *, stdin: bytes = b"", heard: Sink | None = None) -> Done:
        kept = _Kept(heard)
        argv = quote.pool_argv(words, program=self._target.program, env=self._look)
        code = await self._remote.run(argv, out=kept.print, err=kept.complain, stdin=stdin)
        return Done(code, bytes(kept.out), bytes(kept.err))


@asynccontextmanager
async def open_session(
    target: SshTarget | None, *, stop_steps: StopSteps = STOP_STEPS, look: Mapping[str, str] = _PLAIN
) -> AsyncIterator[PoolSession]:
    """A way to `target`; None is this host, where cancelled commands get these signals. Raises SshFailed.

    `look`: environment that says what the output should look like, see llorch/pool/terminal.py.
    """
    if target is None:
        yield _Here(stop_steps, look)
        return
    await asyncio.to_thread(runtime.ensure, "net")
    async with ssh.connect(target) as remote:
        yield _There(target, remote, look)


async def output(target: SshTarget | None, words: Sequence[str], *, timeout_s: float) -> bytes:
    """What `llorch-pool WORDS` prints on `target`, None for this host; a command that leaves nothing behind.

    Raises HostError with the command's last words when it fails, TryLater when it takes longer than `timeout_s`,
    SshFailed when the pool is not reached.
    """
    name = "this host" if target is None else target.name
    try:
        async with asyncio.timeout(timeout_s), open_session(target, stop_steps=KILL_AT_ONCE) as session:
            done = await session.run(words)
    except TimeoutError:
        raise TryLater(f"{name}: 'llorch-pool {words[0]}' took longer than {timeout_s:g} s") from None
    if done.exit_code != 0:
        raise HostError(f"{name}: {done.complaint}")
    return done.out
