"""One llorch-pool command on a pool, run by a daemon: on this host as a child process, elsewhere over SSH.

Bounded in time and in output; whatever happens, the command is ended before this returns.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence

from llorch.base.errors import HostError, TryLater
from llorch.host import quote, runtime, ssh
from llorch.host.process import clean_environment, source_path
from llorch.host.targets import SshTarget

OUTPUT_SIZE_MAX = 4 << 20
_COMPLAINT_SIZE_MAX = 16 << 10


async def output(target: SshTarget | None, words: Sequence[str], *, timeout_s: float) -> bytes:
    """What `llorch-pool WORDS` prints on `target`, None for this host.

    Raises HostError with the command's last words when it fails, TryLater when it takes longer than `timeout_s`,
    SshFailed when the pool is not reached.
    """
    name = "this host" if target is None else target.name
    try:
        async with asyncio.timeout(timeout_s):
            code, out, err = await (_here(words) if target is None else _there(target, words))
    except TimeoutError:
        raise TryLater(f"{name}: 'llorch-pool {words[0]}' took longer than {timeout_s:g} s") from None
    if code != 0:
        last = err.decode("utf-8", "replace").strip().rpartition("\n")[2].removeprefix("llorch: ")
        raise HostError(f"{name}: {last[:500] or f'llorch-pool {words[0]} ended with exit code {code}'}")
    return out


async def _here(words: Sequence[str]) -> tuple[int, bytes, bytes]:
    argv = [*await asyncio.to_thread(runtime.daemon_command, "pool"), *words]
    pipe = subprocess.PIPE
    environment = {**clean_environment(), **source_path()}
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, cwd="/", env=environment, start_new_session=True
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        out, err = await asyncio.gather(
            _read(process.stdout, OUTPUT_SIZE_MAX), _read(process.stderr, _COMPLAINT_SIZE_MAX)
        )
        return await process.wait(), out, err
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _read(stream: asyncio.StreamReader, size_max: int) -> bytes:
    """All of a stream; of what is longer, the beginning."""
    kept = bytearray()
    while data := await stream.read(1 << 16):
        kept += data[: size_max - len(kept)]
    return bytes(kept)


async def _there(target: SshTarget, words: Sequence[str]) -> tuple[int, bytes, bytes]:
    await asyncio.to_thread(runtime.ensure, "net")
    out, err = bytearray(), bytearray()  # filled by the sinks below
    argv = quote.pool_argv(words, program=target.program, env={"LLORCH_UTF8": "0", "NO_COLOR": "1"})

    def keep(data: bytes) -> None:
        out.extend(data[: OUTPUT_SIZE_MAX - len(out)])

    def complain(data: bytes) -> None:
        err.extend(data)
        del err[:-_COMPLAINT_SIZE_MAX]

    async with ssh.connect(target) as remote:
        code = await remote.run(argv, out=keep, err=complain)
    return code, bytes(out), bytes(err)
