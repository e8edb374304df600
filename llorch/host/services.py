"""Daemons of ours as services of this machine: where their definitions are, and what the service manager is told.

systemd on Linux; launchd on macOS, which nobody has tried. Everything that is run is also what `--dry-run` prints.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llorch.base.config import home_dir
from llorch.base.errors import HostError
from llorch.host import disk, install, runtime, units
from llorch.host.process import clean_environment
from llorch.host.units import Definition, Scope

PREFIX = "llorch-"
_SYSTEM_UNITS = Path("/etc/systemd/system")
_LINGERING = Path("/var/lib/systemd/linger")
_SHOWN = ("ActiveState", "SubState", "StatusText", "MainPID", "NRestarts", "UnitFileState")


@dataclass(frozen=True, slots=True)
class State:
    """A service as its manager sees it; `status` is what the daemon said last. `pid` 0: it does not run."""

    name: str
    path: Path
    active: str
    detail: str
    status: str
    pid: int
    restarts: int
    enabled: str


def is_launchd() -> bool:
    """Is the service manager launchd?"""
    return sys.platform == "darwin"


def path_of(name: str, scope: Scope, env: Mapping[str, str]) -> Path:
    """Where the definition of service `name` is, or will be."""
    if is_launchd():
        root = Path("/Library/LaunchDaemons") if scope is Scope.SYSTEM else home_dir(env) / "Library" / "LaunchAgents"
        return root / f"{name}.plist"
    if scope is Scope.SYSTEM:
        return _SYSTEM_UNITS / f"{name}.service"
    named = env.get("XDG_CONFIG_HOME", "")
    root = Path(named) if named.startswith("/") else home_dir(env) / ".config"
    return root / "systemd" / "user" / f"{name}.service"


def command(link: str, applet: str, scope: Scope, env: Mapping[str, str]) -> list[str]:
    """The argv, up to its flags, that starts a daemon for years: through the links of `self install`.

    An upgrade moves them, so that the next start is the new version. Raises HostError when nothing is installed.
    """
    if not runtime.is_frozen():
        return runtime.daemon_command(applet)
    places = [install.places(env, None).bin_dir, Path("/usr/local/bin")]
    if runtime.is_one_folder():
        places.insert(0, Path(sys.executable).parents[3] / "bin")
    for place in reversed(places) if scope is Scope.SYSTEM else places:
        if (place / link).is_file() and os.access(place / link, os.X_OK):
            return [str(place / link)]
    where = " --prefix /usr/local" if scope is Scope.SYSTEM else ""
    raise HostError(f"a service needs a program that stays in its place: run 'llorch self install{where}' first")


def text(service: Definition, env: Mapping[str, str]) -> bytes:
    """The definition as it will be written. Raises HostError for words that cannot be in one."""
    if is_launchd():
        return units.launchd(service, str(home_dir(env) / "Library" / "Logs" / f"{service.name}.log"))
    try:
        return units.systemd(service).encode()
    except ValueError as error:
        raise HostError(f"no unit can be written: {error}") from None


def start_steps(name: str, scope: Scope, env: Mapping[str, str]) -> list[list[str]]:
    """The commands that have the manager take up a written definition and start it, now and at every boot."""
    if is_launchd():
        domain = "system" if scope is Scope.SYSTEM else f"gui/{os.getuid()}"
        return [["launchctl", "bootstrap", domain, str(path_of(name, scope, env))]]
    return [
        _systemctl(scope, "daemon-reload"),
        _systemctl(scope, "enable", name),
        # Not `start`: one that runs by an older definition must change, too.
        _systemctl(scope, "restart", name),
    ]


def stop_steps(name: str, scope: Scope) -> list[list[str]]:
    """The commands that stop a service and have it not come back."""
    if is_launchd():
        domain = "system" if scope is Scope.SYSTEM else f"gui/{os.getuid()}"
        return [["launchctl", "bootout", f"{domain}/{name}"]]
    return [_systemctl(scope, "disable", "--now", name)]


def linger_step() -> list[str] | None:
    """The command that lets this user's services run without a login; None when they may already."""
    if is_launchd() or (_LINGERING / _user_name()).exists():
        return None
    return ["loginctl", "enable-linger", _user_name()]


def write(service: Definition, env: Mapping[str, str]) -> bool:
    """Write the definition; False when it stood there already, letter for letter. Raises HostError."""
    path, wanted = path_of(service.name, service.scope, env), text(service, env)
    try:
        if path.read_bytes() == wanted:
            return False
    except FileNotFoundError:
        pass
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from None
    disk.make_dir(path.parent)
    disk.write_atomic(path, wanted)
    return True


def remove(name: str, scope: Scope, env: Mapping[str, str]) -> None:
    """Remove the definition of a stopped service. Raises HostError."""
    try:
        path_of(name, scope, env).unlink(missing_ok=True)
    except OSError as error:
        raise HostError(f"cannot remove {path_of(name, scope, env)}: {error.strerror}") from None
    if not is_launchd():
        run(_systemctl(scope, "daemon-reload"))


def run(argv: Sequence[str]) -> str:
    """One command of the service manager; what it printed. Raises HostError with its last words."""
    if shutil.which(argv[0]) is None:
        raise HostError(f"{argv[0]} is not on this machine: a service needs systemd (or launchd)")
    done = subprocess.run(argv, env=clean_environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())
        raise HostError(f"'{shlex.join(argv)}' failed: {said[:500] or f'exit code {done.returncode}'}")
    return done.stdout.decode("utf-8", "replace")


def names(scope: Scope, env: Mapping[str, str]) -> list[str]:
    """The services of ours that are installed."""
    folder = path_of(PREFIX, scope, env).parent
    return sorted(path.stem for path in folder.glob(f"{PREFIX}*") if path.suffix in (".service", ".plist"))


def state(name: str, scope: Scope, env: Mapping[str, str]) -> State:
    """How a service does; `unknown` when its manager cannot be asked."""
    facts: dict[str, str] = {}
    detail = ""
    try:
        asked = ["launchctl", "list", name] if is_launchd() else _systemctl(scope, "show", name, "-p", ",".join(_SHOWN))
        printed = run(asked)
        facts = {key: value for key, equals, value in (line.partition("=") for line in printed.splitlines()) if equals}
    except HostError as error:
        detail = error.message
    return State(
        name=name,
        path=path_of(name, scope, env),
        active=facts.get("ActiveState", "unknown"),
        detail=facts.get("SubState", detail),
        status=facts.get("StatusText", ""),
        pid=int(facts.get("MainPID") or 0),
        restarts=int(facts.get("NRestarts") or 0),
        enabled=facts.get("UnitFileState", ""),
    )


def logs_command(name: str, scope: Scope, env: Mapping[str, str], *, follow: bool, lines: int) -> list[str]:
    """The command that prints what a service said; it goes on over restarts of the service when it follows."""
    if is_launchd():
        log = home_dir(env) / "Library" / "Logs" / f"{name}.log"
        return ["tail", "-n", str(lines), *(["-F"] if follow else []), str(log)]
    manager = ["journalctl", *(["--user"] if scope is Scope.USER else [])]
    return [*manager, "--unit", name, "--no-pager", "--output=cat", "-n", str(lines), *(["-f"] if follow else [])]


def show(argv: Sequence[str]) -> int:
    """Run a command on our own terminal; its exit code. Raises HostError when it is not there."""
    try:
        return subprocess.run(argv, env=clean_environment(), check=False).returncode
    except FileNotFoundError:
        raise HostError(f"{argv[0]} is not on this machine") from None


def _systemctl(scope: Scope, *words: str) -> list[str]:
    return ["systemctl", *(["--user"] if scope is Scope.USER else []), *words]


def _user_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
