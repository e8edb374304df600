"""What `llorch pool worker list --host H` takes beside `ssh H true`: the same real sshd on loopback, in turn."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from peers.figures import Figures
from peers.installed import FILE
from peers.progress import say

from llorch.base.errors import HostError
from tests.remote.sshd import SSHD, Sshd, running_sshd

LIMIT_S = 60.0
WARM_UPS = 2


def run(home: Path, rounds: int) -> Figures:
    """Medians of interleaved commands, caches warm. Raises HostError."""
    if not SSHD.exists():
        raise HostError("needs OpenSSH's server: apt-get install openssh-server")
    with running_sshd(home / "ssh") as sshd:
        here = {name: value for name, value in sshd.env.items() if name != "PYTHONPATH"}
        _install(here, sshd.home)
        _install({**here, "HOME": str(sshd.remote_home)}, sshd.remote_home)
        return _measure(sshd, here, rounds)


def _install(env: dict[str, str], home: Path) -> None:
    say(f"self install into {home.name}")
    done = subprocess.run([FILE, "self", "install"], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HostError(f"self install: {done.stderr.strip()}")


def _measure(sshd: Sshd, env: dict[str, str], rounds: int) -> Figures:
    listing = ("pool", "worker", "list")
    installed = str(sshd.home / ".local" / "bin" / "llorch")
    commands = {
        "ssh_true_s_openssh": _openssh(sshd),
        "pool_worker_list_s_installed": [installed, *listing, "--host", "pool-a"],
        "pool_worker_list_s_onefile": [str(FILE), *listing, "--host", "pool-a"],
        "worker_list_here_s_installed": [installed, *listing],
    }
    figures = Figures()
    for number in range(-WARM_UPS, rounds):
        order = list(commands.items()) if number % 2 else list(commands.items())[::-1]
        for name, argv in order:
            took_s = _took_s(argv, env)
            if number >= 0:
                figures.add(name, took_s)
    return figures


def _openssh(sshd: Sshd) -> list[str]:
    """OpenSSH takes the user's home from the password database, not from HOME: everything is named."""
    options = ["-F", str(sshd.home / ".ssh" / "config"), "-i", str(sshd.home / ".ssh" / "id_ed25519")]
    return ["ssh", *options, "-o", f"UserKnownHostsFile={sshd.known_hosts}", "pool-a", "true"]


def _took_s(argv: list[str], env: dict[str, str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(argv, env=env, capture_output=True, timeout=LIMIT_S, check=False)
    took_s = time.perf_counter() - began
    if done.returncode:
        raise HostError(f"{argv[0]}: {done.stderr.decode(errors='replace').strip()[-300:]}")
    return took_s
