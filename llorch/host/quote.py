"""One argv as one remote shell line: the only place where words become shell text.

A word is written so that every login shell reads it the same way, POSIX ones and fish alike: quotes and backslashes
stand outside of the single quotes, escaped by a backslash, because fish gives a backslash a meaning inside of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from llorch.base.errors import UsageError

# One argument of one exec(): sshd hands the whole line to `SHELL -c` as a single one (MAX_ARG_STRLEN on Linux).
LINE_SIZE_MAX = 128 * 1024 - 1

_PLAIN = re.compile(rb"[A-Za-z0-9_./:,@%+-]+")
_PIECES = re.compile(rb"[\\']|[^\\']+")

# A control character in front, so that no line of a login script is taken for it.
PID_MARK = re.compile(rb"\x1ellorch-pid (\d+)\n")
_SAY_PID = 'printf \'\\036llorch-pid %s\\n\' "$$" >&2; exec "$@"'

# Tried in turn: the profile's path, PATH, the usual places, a bare copied file. $0 is the profile's path or empty.
# A file named llorch or llorch-1.2 acts as `llorch`, hence the word `pool` in front.
_FIND = (
    'run() { p=$1; shift; case ${p##*/} in llorch|llorch-[0-9]*) exec "$p" pool "$@";; esac; exec "$p" "$@"; }; '
    'p=$0; case $p in "~/"*) p=$HOME/${p#"~/"};; esac; '
    'if [ -n "$p" ]; then if [ -x "$p" ]; then run "$p" "$@"; fi; '
    'echo "llorch: $p (path= of this host\'s profile) is not there; looking elsewhere" >&2; fi; '
    'if command -v llorch-pool >/dev/null 2>&1; then exec llorch-pool "$@"; fi; '
    'for p in "$HOME/.local/bin/llorch-pool" /usr/local/bin/llorch-pool "$HOME/llorch"; do '
    'if [ -f "$p" ] && [ -x "$p" ]; then run "$p" "$@"; fi; done; '
    'echo "llorch: llorch-pool was not found on this host: copy the llorch file to ~/llorch there'
    " (scp llorch HOST:), or set path= in the host's profile\" >&2; exit 127"
)


def quote(word: str) -> bytes:
    """`word` as one word of a shell line. Raises UsageError for what no argv can hold."""
    raw = os.fsencode(word)
    if b"\0" in raw:
        raise UsageError("an argument holds a NUL character")
    if _PLAIN.fullmatch(raw):
        return raw
    return b"".join(b"\\" + p if p in (b"\\", b"'") else b"'" + p + b"'" for p in _PIECES.findall(raw)) or b"''"


def line(argv: Sequence[str]) -> bytes:
    """`argv` as one shell line. Raises UsageError when it is too long to be handed over."""
    text = b" ".join(quote(word) for word in argv)
    if len(text) > LINE_SIZE_MAX:
        raise UsageError(f"the command line is too long for SSH: {len(text)} bytes, {LINE_SIZE_MAX} fit")
    return text


def marked_line(argv: Sequence[str]) -> bytes:
    """The line that says its process id on stderr (see `PID_MARK`) and then becomes `argv`.

    Every step is an `exec`: the id is that of the command itself, which leads the process group that sshd made for it.
    """
    return line(["exec", "/bin/sh", "-c", _SAY_PID, "sh", *argv])


def pool_argv(argv: Sequence[str], *, program: str | None, env: Mapping[str, str]) -> list[str]:
    """The argv that finds llorch-pool on the other side and becomes it, with `env` in its environment."""
    settings = [f"{name}={value}" for name, value in env.items()]
    return ["env", *settings, "/bin/sh", "-c", _FIND, program or "", *argv]
