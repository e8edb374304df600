"""Copying a program to a host over SFTP, checked there by its hash, in a folder of its own that does not stay.

The folder lies in the host's cache, where what a broken connection left is swept by the next `self install`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from llorch.base.errors import HostError, SshFailed
from llorch.host.program import Program
from llorch.host.prune import UPLOAD_PREFIX
from llorch.host.ssh import Remote

_MAKE = 'umask 077; mkdir -p "$1" && d=$(mktemp -d "$1/$2XXXXXX") && printf "\\036%s\\n" "$d"'
_REMOVE = 'case $1 in */"$2"*) rm -rf "$1" ;; esac'
_CHECK = (
    'cd "$1" || exit 2; if command -v sha256sum >/dev/null 2>&1; then sha256sum -c - >/dev/null; '
    "else shasum -a 256 -c - >/dev/null; fi"
)

Shown = Callable[[int], None]


@asynccontextmanager
async def copied(remote: Remote, program: Program, cache: str, shown: Shown) -> AsyncIterator[str]:
    """The folder on the host that holds `program`, complete and checked; it is removed at the end.

    `cache` is the host's cache directory; `shown` gets the bytes copied so far. Raises SshFailed, HostError.
    """
    folder = await _make_folder(remote, cache)
    try:
        await _send(remote, program, folder, shown)
        await _check(remote, program, folder)
        yield folder
    finally:
        with suppress(SshFailed):  # the connection broke; the next install there sweeps it
            await remote.ask(["/bin/sh", "-c", _REMOVE, "sh", folder, UPLOAD_PREFIX])


async def _make_folder(remote: Remote, cache: str) -> str:
    answer = await remote.ask(["/bin/sh", "-c", _MAKE, "sh", cache, UPLOAD_PREFIX])
    made = [line[1:] for line in answer.out.split("\n") if line.startswith("\x1e")]
    if answer.code != 0 or not made:
        raise HostError(f"cannot create a folder in {cache} there: {last_line(answer.err)}")
    return made[-1]


async def _send(remote: Remote, program: Program, folder: str, shown: Shown) -> None:
    done = 0
    async with remote.open_sftp() as sftp:
        for part in program.parts:
            place = f"{folder}/{part.name}"
            if "/" in part.name:
                await sftp.makedirs(place.rpartition("/")[0], exist_ok=True)
            before = done

            def advance(source: bytes, target: bytes, done_bytes: int, total_bytes: int, before: int = before) -> None:
                shown(before + done_bytes)

            # Our own file is read through a link of /proc, which would be copied as one.
            await sftp.put(str(part.path), place, follow_symlinks=True, progress_handler=advance)
            await sftp.chmod(place, 0o700 if part.is_executable else 0o600)
            done += part.size_bytes
    shown(done)


async def _check(remote: Remote, program: Program, folder: str) -> None:
    """Raises HostError when a byte of it differs there."""
    rows = "".join(f"{part.sha256}  {part.name}\n" for part in program.parts)
    answer = await remote.ask(["/bin/sh", "-c", _CHECK, "sh", folder], stdin=rows.encode())
    if answer.code != 0:
        raise HostError(f"the copy in {folder} does not match its checksum there: run the same command again")


def last_line(text: str) -> str:
    """The last line of what a command said, without our own lead; for a message of one line."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip().removeprefix("llorch: ") if lines else "it gave no reason"
