"""The orchestratord of this user on this machine: found by the record it keeps, started when there is none.

A started one is a daemon of its own: it outlives its terminal and the command that started it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llorch.base import config
from llorch.base.errors import HostError, TryLater
from llorch.host import disk, interrupts, ports, process, runtime

RECORD_FILE = "orchestratord.json"
LOG_FILE = "orchestratord.log"
START_TIMEOUT_S = 60.0
STOP_GRACE_S = 10.0
_LOCK_FILE = ".orchestratord-start.lock"
_DEFAULT_PORT, _DEFAULT_BIND = 8080, "127.0.0.1"
_ANY_PORT = ["--port", "0"]
_POLL_S = 0.02
_TAIL_LINES, _TAIL_BYTES = 8, 16 << 10
# It needs neither the hub's credentials nor the key of a client, and lives in `/`, so paths must be absolute.
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "LLORCH_API_KEY")
_PATHS = ("LLORCH_CONFIG", "LLORCH_CACHE", "LLORCH_STATE", "LLORCH_REPO", "LLORCH_WORKER_TOKEN_FILE", "LLORCH_POLICY")


@dataclass(frozen=True, slots=True)
class Running:
    """A live orchestratord of ours."""

    url: str
    pid: int


def find(env: Mapping[str, str]) -> Running | None:
    """The one that runs, by its record; a record whose process is gone counts as none."""
    try:
        told = json.loads((config.state_dir(env) / RECORD_FILE).read_text(encoding="utf-8"))
        url, pid, started = str(told["url"]), int(told["pid"]), float(told["start_time"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Running(url, pid) if process.is_alive(pid, started) else None


def find_or_start(env: Mapping[str, str]) -> tuple[Running, bool]:
    """The one that runs, and whether it had to be started; callers at once start one. Raises HostError, ConfigError."""
    if (running := find(env)) is not None:
        return running, False
    state = config.state_dir(env).absolute()
    disk.make_dir(state, mode=0o700)
    with disk.locked(state / _LOCK_FILE, timeout_s=2 * START_TIMEOUT_S):
        if (running := find(env)) is not None:
            return running, False
        if _port_is_set(env):
            return _start(env, state, []), True
        try:
            return _start(env, state, [] if ports.is_free(_bind(env), _DEFAULT_PORT) else _ANY_PORT), True
        except _PortLost:
            return _start(env, state, _ANY_PORT), True


class _PortLost(HostError):
    """Somebody else took the port between our look and the start."""


def _section(env: Mapping[str, str]) -> Mapping[str, Any]:
    section: Mapping[str, Any] = config.load_file(config.config_path(env)).get("orchestratord", {})
    return section


def _port_is_set(env: Mapping[str, str]) -> bool:
    """Did somebody choose its port? Else any free one will do where the usual one is taken."""
    return bool(env.get("LLORCH_PORT")) or "port" in _section(env)


def _bind(env: Mapping[str, str]) -> str:
    return env.get("LLORCH_BIND") or str(_section(env).get("bind", _DEFAULT_BIND))


def _start(env: Mapping[str, str], state: Path, flags: list[str]) -> Running:
    log_path = state / LOG_FILE
    argv = [*runtime.daemon_command("orchestratord"), *flags]
    with interrupts.as_keyboard_interrupt():
        with interrupts.held_off():  # started and not noted, nobody would end it
            spawned = process.spawn_detached(argv, log_path=log_path, env=_environment(env, log_path))
        is_ready = False
        try:
            running = _wait(env, spawned, log_path)
            is_ready = True
        finally:
            if not is_ready:
                with interrupts.held_off():
                    process.terminate(spawned.pid, spawned.start_time, grace_s=STOP_GRACE_S)
    return running


def _environment(env: Mapping[str, str], log_path: Path) -> dict[str, str]:
    """What the daemon's environment has that ours has not."""
    absolute = {name: str(Path(env[name]).absolute()) for name in _PATHS if env.get(name)}
    if env.get("LLORCH_HOME") and env["LLORCH_HOME"] != "checkout":
        absolute["LLORCH_HOME"] = str(Path(env["LLORCH_HOME"]).absolute())
    logs = {} if env.get("LLORCH_LOG_FILE") else {"LLORCH_LOG_FILE": str(log_path)}
    return {**absolute, **logs, **{name: "" for name in _SECRETS if name in env}}


def _wait(env: Mapping[str, str], spawned: process.Spawned, log_path: Path) -> Running:
    """Until it takes work. Raises HostError with the end of its log."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.is_alive(spawned.pid, spawned.start_time):
        running = find(env)
        if running is not None and running.pid == spawned.pid:
            return running
        if time.monotonic() > deadline:
            raise TryLater(f"orchestratord was not ready within {START_TIMEOUT_S:.0f} s (log: {log_path})")
        time.sleep(_POLL_S)
    said = _tail(log_path)
    if "in use" in said:
        raise _PortLost(said)
    raise HostError(f"orchestratord did not start: {said or 'it said nothing'} (log: {log_path})")


def _tail(path: Path) -> str:
    """The last line of the log that says something."""
    try:
        lines = path.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace").splitlines()[-_TAIL_LINES:]
    except OSError:
        return ""
    return next((line.removeprefix("llorch: ").strip() for line in reversed(lines) if line.strip()), "")
