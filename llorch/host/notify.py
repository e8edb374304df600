"""Telling the service manager how a daemon does, as systemd's `Type=notify` asks: datagrams to NOTIFY_SOCKET.

Without a manager every call does nothing. A manager that does not listen any more costs the message, never the daemon.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
# The manager's queue holds a handful of messages: a change of state is worth waiting for, what is said again is not.
_STATE_TIMEOUT_S = 2.0
_AT_ONCE = 0.0


class Notifier:
    """`watchdog_s`: how often `alive` must be said, half of what the manager waits; None when it does not watch."""

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        """`address` is a socket's path, or `@name` for an abstract one."""
        self.watchdog_s = watchdog_s if address else None
        self._address = _socket_address(address) if address else None

    def ready(self, status: str) -> None:
        """The daemon serves now, also after `reloading`."""
        self._send("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """One line for whoever asks the manager."""
        self._send(f"STATUS={status}", timeout_s=_AT_ONCE)

    def alive(self) -> None:
        """The event loop turns."""
        self._send("WATCHDOG=1", timeout_s=_AT_ONCE)

    def stopping(self, status: str) -> None:
        """No new work is taken."""
        self._send("STOPPING=1", f"STATUS={status}")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` must follow."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def _send(self, *lines: str, timeout_s: float = _STATE_TIMEOUT_S) -> None:
        if self._address is None:
            return
        message = "\n".join(_one_line(line) for line in lines).encode("utf-8", "replace")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)) as channel:
            channel.settimeout(timeout_s)
            try:
                channel.sendto(message, self._address)
            except OSError:
                return


def _socket_address(address: str) -> str:
    return "\0" + address[1:] if address.startswith("@") else address


def _one_line(text: str) -> str:
    return " ".join(text.split())


def take(env: MutableMapping[str, str]) -> Notifier:
    """The notifier that `env` describes; takes the variables out, so that no child speaks in our name."""
    address, period, pid = (env.get(name, "") for name in _VARIABLES)
    for name in _VARIABLES:
        env.pop(name, None)
    watched = period.isdecimal() and int(period) > 0 and pid in ("", str(os.getpid()))
    return Notifier(address or None, int(period) / 2e6 if watched else None)
