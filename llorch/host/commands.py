"""Other people's programs, run in a folder: their output shown as it comes, or taken."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from llorch.base.errors import HostError, NotFound
from llorch.host.process import bound_to, clean_environment, source_path

_ENDING_WAIT_S = 20.0
# git must not wait for a password that nobody types.
_SETTINGS = {"GIT_TERMINAL_PROMPT": "0"}


class Shown(Enum):
    """Where a program's output goes."""

    BOTH = "both"  # its stdout to ours, its stderr to ours
    STDERR = "stderr"  # all of it to stderr: stdout is for our JSON


@dataclass(frozen=True, slots=True)
class Said:
    """How a program ended and what it printed."""

    code: int
    out: str
    err: str


def run(argv: Sequence[str], folder: Path, shown: Shown = Shown.BOTH) -> int:
    """Run `argv` in `folder` with our streams; its exit code, 128 + n after signal n. Raises NotFound, HostError.

    Ctrl-C reaches it, too; it is given time to end by itself.
    """
    sys.stdout.flush()
    try:
        process = subprocess.Popen(
            list(argv),
            cwd=folder,
            env={**clean_environment(), **_SETTINGS},
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno() if shown is Shown.STDERR else None,
        )
    except OSError as error:
        raise _not_started(argv[0], error) from error
    try:
        code = process.wait()
    except KeyboardInterrupt:
        try:
            process.wait(_ENDING_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
    return code if code >= 0 else 128 - code


def ask(argv: Sequence[str], folder: Path) -> Said:
    """Run `argv` in `folder` and take what it prints. Raises NotFound, HostError."""
    try:
        done = subprocess.run(
            list(argv),
            cwd=folder,
            env={**clean_environment(), **_SETTINGS},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise _not_started(argv[0], error) from error
    return Said(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))


async def ask_within(argv: Sequence[str], folder: Path, limit_s: float) -> Said:
    """As `ask`, for one of our own programs, while an event loop runs; it is killed at the limit, and with us.

    Raises TimeoutError, NotFound, HostError.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=folder,
            env={**clean_environment(), **source_path()},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            preexec_fn=bound_to(os.getpid()),
        )
    except OSError as error:
        raise _not_started(argv[0], error) from error
    try:
        async with asyncio.timeout(limit_s):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Said(process.returncode or 0, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))


def is_there(program: str) -> bool:
    """Can `program` be started by its name? System folders that are not on every PATH are searched, too."""
    return (
        shutil.which(program) is not None or shutil.which(program, path="/usr/sbin:/sbin:/usr/local/sbin") is not None
    )


def _not_started(program: str, error: OSError) -> HostError:
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{program} is not there")
    return HostError(f"cannot start {program}: {error.strerror or error}")
