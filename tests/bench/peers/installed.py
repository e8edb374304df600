"""The frozen file as `self install` lays it out, in a folder that is kept between runs; all commands are of that."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peers.cluster import environment
from peers.progress import say

from llorch.base.errors import HostError

FILE = Path(__file__).resolve().parents[3] / "build" / "out" / "llorch"


@contextmanager
def install(folder: Path) -> Iterator[Path]:
    """The installed `llorch`; while the block runs it is what `LLORCH_FROZEN` names. Raises HostError."""
    if not FILE.is_file():
        raise HostError(f"there is no {FILE}: run ./install.sh bench pools")
    home = folder / "installed"
    home.mkdir(parents=True, exist_ok=True)
    before = {name: os.environ.get(name) for name in ("LLORCH_FROZEN", "LLORCH_CACHE")}
    os.environ["LLORCH_CACHE"] = str(folder / "installed" / "cache")
    say("installing build/out/llorch")
    done = subprocess.run([FILE, "self", "install"], env=environment(home), capture_output=True, text=True, check=False)
    if done.returncode:
        raise HostError(f"self install: {done.stderr.strip()}")
    program = home / ".local" / "bin" / "llorch"
    os.environ["LLORCH_FROZEN"] = str(program)
    try:
        yield program
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
