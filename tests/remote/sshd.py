"""A real OpenSSH server on a free loopback port, with its own keys, config and homes; the user's are not touched."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncssh

SSHD = Path("/usr/sbin/sshd")
ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Sshd:
    """One running server and the client's home that knows it."""

    port: int
    home: Path  # the client's: .ssh/config, .ssh/known_hosts, .ssh/id_ed25519
    remote_home: Path  # HOME of the sessions
    remote_bin: Path  # first on PATH of the sessions
    log: Path
    host_key: str  # algorithm and key, as in known_hosts

    @property
    def env(self) -> dict[str, str]:
        """The client's environment: its own home, no agent, no settings of the user."""
        kept = {
            k: v for k, v in os.environ.items() if k == "LLORCH_CACHE" or not k.startswith(("LLORCH_", "XDG_", "SSH_"))
        }
        return {**kept, "HOME": str(self.home), "PYTHONPATH": str(ROOT)}

    @property
    def known_hosts(self) -> Path:
        return self.home / ".ssh" / "known_hosts"

    def write_config(self, text: str) -> None:
        """Replace the client's ~/.ssh/config."""
        (self.home / ".ssh" / "config").write_text(text)


def program() -> list[str]:
    """How to start llorch: the frozen file when LLORCH_FROZEN names one, else the sources."""
    frozen = os.environ.get("LLORCH_FROZEN")
    return [frozen] if frozen else [sys.executable, "-m", "llorch"]


def key_file(path: Path) -> str:
    """Write a fresh key pair; the public half as `algorithm base64`."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(path))
    path.chmod(0o600)
    return " ".join(key.export_public_key().decode().split()[:2])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_listening(server: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.02)
    return False


@contextmanager
def running_sshd(folder: Path, *, sftp: bool = True, more: str = "") -> Iterator[Sshd]:
    """Start sshd with everything below `folder`; stop it at the end. `more` is put into its config."""
    home, remote_home, remote_bin = folder / "home", folder / "remote-home", folder / "remote-bin"
    for path in (home / ".ssh", remote_home, remote_bin):
        path.mkdir(parents=True)
    host_key = key_file(folder / "host_key")
    (folder / "authorized_keys").write_text(key_file(home / ".ssh" / "id_ed25519") + "\n")
    log = folder / "sshd.log"
    for _ in range(5):
        port = _free_port()
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host_key\nPidFile none\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nMaxStartups 200\nMaxSessions 200\n"
            f"{'Subsystem sftp internal-sftp' if sftp else ''}\n{more}\n"
            f"SetEnv HOME={remote_home} PATH={remote_bin}:/usr/local/bin:/usr/bin:/bin PYTHONPATH={ROOT}\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # sshd refuses to start as root without it
        with open(log, "ab") as output:
            server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=output)
        try:
            if _wait_until_listening(server, port):
                sshd = Sshd(port, home, remote_home, remote_bin, log, host_key)
                sshd.known_hosts.write_text(f"[127.0.0.1]:{port} {host_key}\n")
                sshd.write_config(f"Host pool-a\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n")
                yield sshd
                return
        finally:
            server.terminate()
            server.wait(10)
    raise AssertionError(f"sshd did not start: {log.read_text()}")
