"""Machines on one machine: each with its own network, processes, home and temporary folders, on a cable of its own.

    with laid_network(folder, ["operator", "a", "b"]) as network:
        network["b"].run(["/bin/sh", "-c", "hostname"])
        network.unplug("b")

The first machine holds the bridge that the others' cables lead to. The root file system is read-only for a machine
but for its own places, so that what is left behind can only lie in them. Needs root; `Unavailable` says what it lacks.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

COMMAND_TIMEOUT_S = 60.0
START_TIMEOUT_S = 20.0
TOOLS = ("ip", "mount", "nsenter", "unshare")
CLONE_NEWNET = 0x40000000
# RFC 5737: addresses for examples, which nobody's network has.
NETWORK = "192.0.2"
PORT_NAME = "eth0"
# The home, and what every machine has of its own; they begin empty.
OWN_PLACES = {"tmp": "/tmp", "var-tmp": "/var/tmp", "run": "/run", "shm": "/dev/shm", "ssh": "/etc/ssh"}
# Process 1 of the machine: it collects what is orphaned there, and ends, and with it the machine, when we do.
# The working directory is the machine's folder and is still reachable after it was mounted over.
_INIT = r"""
set -e
mount --make-rprivate /
mount -t proc proc /proc
home=$1; echo "$2" >/proc/sys/kernel/hostname; shift 2
while [ $# -gt 0 ]; do mount --bind "$1" "$2"; shift 2; done
mount --bind home "$home"
mount -o remount,bind,ro /
ip link set lo up
echo ready
exec 1>&-
cd /
cat >/dev/null
"""


class Unavailable(Exception):
    """This machine cannot be divided; the reason, for who skips the test."""


@dataclass
class Machine:
    """One of them. `folder` holds its own places as the rest of us see them; `pid` is its process 1, seen by us."""

    name: str
    address: str
    folder: Path
    _holder: subprocess.Popen[bytes]
    pid: int
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """The root user's home, as the rest of us see it."""
        return self.folder / "home"

    @property
    def env(self) -> dict[str, str]:
        """What a login has; nothing of ours leaks in."""
        return {"HOME": home_of_root(), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "USER": "root"}

    def _argv(self, argv: Sequence[str | Path]) -> list[str]:
        spaces = ("--net", "--mount", "--pid", "--uts", "--ipc")
        return ["nsenter", "--target", str(self.pid), *spaces, "--", *map(str, argv)]

    def start(self, argv: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None) -> None:
        """Start a process that ends with the machine at the latest; what it says goes to `log`."""
        with open(log, "ab") as output:
            process = subprocess.Popen(
                self._argv(argv), env=self.env | dict(env or {}), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self._started.append(process)

    def run(
        self, argv: Sequence[str | Path], env: Mapping[str, str] | None = None, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; code and output."""
        return subprocess.run(
            self._argv(argv),
            env=self.env | dict(env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def files(self) -> set[str]:
        """Everything that lies in its own places, directories with a slash at the end."""
        return {f"{path.relative_to(self.folder)}{'/' if path.is_dir() else ''}" for path in self.folder.rglob("*")}

    def processes(self) -> dict[int, str]:
        """Its live processes, by the pids that we see, with their commands; the dead that were not collected, too."""
        space = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                if os.readlink(entry / "ns" / "pid") == space:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        return found

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread, and what it starts, uses the machine's network while the block runs."""
        with open("/proc/thread-self/ns/net") as before, open(f"/proc/{self.pid}/ns/net") as there:
            _set_network(there.fileno())
            try:
                yield
            finally:
                _set_network(before.fileno())

    def close(self) -> None:
        """End the machine with everything that runs there."""
        self._holder.kill()
        self._holder.wait()
        for process in self._started:
            process.wait(START_TIMEOUT_S)


@dataclass
class Network:
    """Machines by name; the first one holds the bridge."""

    machines: dict[str, Machine]

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    @property
    def _middle(self) -> Machine:
        return next(iter(self.machines.values()))

    def unplug(self, name: str) -> None:
        """Pull the machine's cable: nothing gets through, and nobody is told."""
        _checked(self._middle, "ip", "link", "set", f"to-{name}", "down")

    def plug(self, name: str) -> None:
        """Put the cable back."""
        _checked(self._middle, "ip", "link", "set", f"to-{name}", "up")


def home_of_root() -> str:
    """Where root's home is, on this machine and therefore on those."""
    return pwd.getpwuid(0).pw_dir


def _set_network(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _checked(machine: Machine, *argv: str) -> None:
    done = machine.run(argv)
    if done.returncode != 0:
        raise Unavailable(f"'{' '.join(argv)}': {done.stderr.strip()}")


@contextmanager
def laid_network(folder: Path, names: Sequence[str]) -> Iterator[Network]:
    """Machines in `folder`, connected to each other and to nothing else. Raises Unavailable."""
    if os.geteuid() != 0:
        raise Unavailable("needs root, for network and process namespaces")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None and not Path("/usr/sbin", tool).exists()]
    if missing:
        raise Unavailable(f"needs {', '.join(missing)} (packages iproute2, mount, util-linux)")
    network = Network({})
    try:
        for number, name in enumerate(names, 1):
            network.machines[name] = _started(folder / name, name, f"{NETWORK}.{number}")
        _connect(network)
        yield network
    finally:
        for machine in reversed(network.machines.values()):
            machine.close()


def _started(folder: Path, name: str, address: str) -> Machine:
    """Lay out the folders and start process 1."""
    for place in ("home", *OWN_PLACES):
        (folder / place).mkdir(parents=True)
    for place in ("tmp", "var-tmp", "shm"):
        (folder / place).chmod(0o1777)
    (folder / "home").chmod(0o700)
    pairs = [word for pair in OWN_PLACES.items() if Path(pair[1]).is_dir() for word in pair]
    spaces = ("--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child")
    argv = ["unshare", *spaces, "/bin/sh", "-c", _INIT, "init", home_of_root(), name, *pairs]
    pipe = subprocess.PIPE
    with open(folder.with_suffix(".init.log"), "wb") as log:
        holder = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=log, cwd=folder, start_new_session=True)
    assert holder.stdout is not None
    said = holder.stdout.readline()  # it ends when the machine does not come up
    if said != b"ready\n":
        holder.kill()
        holder.wait()
        why = folder.with_suffix(".init.log").read_text(errors="replace").strip()
        raise Unavailable(f"namespaces cannot be made here: {why}")
    [child] = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
    return Machine(name, address, folder, holder, int(child))


def _connect(network: Network) -> None:
    """A bridge in the first machine, a cable from each other one to it."""
    middle, *others = network.machines.values()
    _checked(middle, "ip", "link", "add", "bridge0", "type", "bridge", "forward_delay", "0")
    _checked(middle, "ip", "addr", "add", f"{middle.address}/24", "dev", "bridge0")
    _checked(middle, "ip", "link", "set", "bridge0", "up")
    for other in others:
        port = f"to-{other.name}"
        ends = (port, "type", "veth", "peer", "name", PORT_NAME, "netns", str(other.pid))
        # The pid of the other machine means something to us only: the network alone is entered.
        with middle.entered():
            made = subprocess.run(["ip", "link", "add", *ends], capture_output=True, text=True, timeout=START_TIMEOUT_S)
        if made.returncode != 0:
            raise Unavailable(f"'ip link add {port} type veth': {made.stderr.strip()}")
        _checked(middle, "ip", "link", "set", port, "master", "bridge0", "up")
        _checked(other, "ip", "addr", "add", f"{other.address}/24", "dev", PORT_NAME)
        _checked(other, "ip", "link", "set", PORT_NAME, "up")


def until_answers(machine: Machine, address: str, port: int) -> None:
    """Wait until `machine` reaches a TCP port."""
    deadline = time.monotonic() + START_TIMEOUT_S
    with machine.entered():
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1.0):
                return
            time.sleep(0.02)
    raise AssertionError(f"{machine.name} does not reach {address}:{port}")
