"""Loading asyncssh, and helping it: a short command over SSH must not wait for what it does not need."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llorch.host import ssh
from llorch.host.targets import SshTarget
from tests.remote.sshd import ROOT, SSHD, Sshd, running_sshd

LOAD = """
import ctypes.util
before = ctypes.util.find_library
from llorch.host import ssh_library
ssh_library.load()
ssh_library.load()
import asyncssh
assert ctypes.util.find_library is before and asyncssh.connect
"""


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """A real sshd, seen from its own client home."""
    if not SSHD.exists():
        pytest.skip("needs OpenSSH's server: apt-get install openssh-server")
    with running_sshd(tmp_path / "sshd") as running:
        monkeypatch.setenv("HOME", str(running.home))
        yield running


def test_loading_starts_no_program(tmp_path: Path) -> None:
    """No compiler and no linker of the host is run to look for libraries; the search works as before afterwards."""
    for name in ("gcc", "cc", "ld"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    env = {**os.environ, "PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", LOAD], env=env, check=True)
    assert not (tmp_path / "ran").exists()


def test_a_listing_loads_no_more_than_it_needs(sshd: Sshd) -> None:
    """`llorch pool worker list --host H` does without the SDK, the downloads and what spawning needs."""
    argv = [sys.executable, "-X", "importtime", "-m", "llorch", "pool", "worker", "list", "--host", "pool-a"]
    done = subprocess.run(argv, env=sshd.env, capture_output=True, check=False, text=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "asyncssh" in loaded
    assert not {name for name in loaded if name.startswith(("llorch.client", "llorch.remote.spawn", "aiohttp"))}
    assert not loaded & {"http.client", "huggingface_hub", "llorch.remote.lan"}


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="only Linux lets us ask for prompt acknowledgements")
def test_what_the_server_says_is_acknowledged_at_once(sshd: Sshd) -> None:
    """Ten short commands on ten connections: in none does sshd's next packet wait 40 ms for an acknowledgement."""

    async def short_commands_s() -> list[float]:
        took = []
        loop = asyncio.get_running_loop()
        for _ in range(10):
            async with ssh.connect(SshTarget("pool-a", "pool-a")) as remote:
                began = loop.time()
                assert (await remote.ask(["true"])).code == 0
                took.append(loop.time() - began)
        return took

    took = sorted(asyncio.run(short_commands_s()))
    # Without it about half of them take 40 ms more. A busy machine may delay some, not most.
    assert took[6] < took[0] + 0.035, took
