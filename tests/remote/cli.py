"""Running llorch's own command line as a child process, from sources or from the frozen file."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.remote.sshd import Sshd, program

TIMEOUT_S = 60


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


def llorch(*words: str, env: Mapping[str, str], stdin: bytes = b"") -> Done:
    """Run `llorch WORDS` to its end."""
    done = subprocess.run([*program(), *words], env=dict(env), input=stdin, capture_output=True, timeout=TIMEOUT_S)
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def install_pool(sshd: Sshd, settings: Mapping[str, str], folder: str = "bin dir") -> str:
    """Put our own llorch-pool on the sessions' side, with `settings` in its environment; the path of the wrapper."""
    from shlex import quote

    path = sshd.remote_home / folder / "llorch-pool"
    path.parent.mkdir(exist_ok=True)
    cache = {"LLORCH_CACHE": os.environ["LLORCH_CACHE"]} if "LLORCH_CACHE" in os.environ else {}
    lines = [f"export {name}={quote(value)}" for name, value in {**cache, **settings}.items()]
    command: Sequence[str] = [*program(), "pool"]
    path.write_text("\n".join(["#!/bin/sh", *lines, f'exec {" ".join(map(quote, command))} "$@"', ""]))
    path.chmod(0o755)
    return str(path)
