"""Real daemons for tests: start them on free ports, wait until they are ready, talk to them, always reap them.

`LLORCH_FROZEN=path/to/llorch` runs the frozen file instead of the sources.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llorch.wire.sse import Event, EventReader

ROOT = Path(__file__).resolve().parents[1]
READY_S = 30.0
ENDED = ("completed", "failed", "cancelled")


def program(applet: str) -> list[str]:
    """The argv that starts an applet, up to its own arguments."""
    frozen = os.environ.get("LLORCH_FROZEN")
    return [str(Path(frozen).absolute()), applet] if frozen else [sys.executable, "-m", "llorch", applet]


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a fresh user whose home is `home`; nothing of ours leaks in."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LLORCH_", "XDG_"))}
    cache = os.environ.get("LLORCH_CACHE")
    own = {"HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return kept | own | ({"LLORCH_CACHE": cache} if cache else {}) | dict(extra or {})


def until(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    """Wait for a condition; its first true value."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"waited {timeout_s:g} s in vain: {what}")


@dataclass
class Answer:
    """One HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The error's code."""
        return str(self.json["error"]["code"])


def connect(url: str, timeout_s: float = 30.0) -> http.client.HTTPConnection:
    """A connection to the service at `url`."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=timeout_s, context=trusting)
    return http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout_s)


def call(
    url: str,
    method: str,
    path: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
) -> Answer:
    """One request; `body` is sent as JSON unless it is bytes."""
    connection = connect(url, timeout_s)
    try:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, dict(headers or {}))
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())
    finally:
        connection.close()


class Events:
    """An open event stream: iterate for its events; leaving the block drops the connection."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self.connection = connection
        self.response = response
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self._reader = EventReader()
        self._ready: list[Event] = []

    def __iter__(self) -> Iterator[Event]:
        while True:
            while self._ready:
                yield self._ready.pop(0)
            data = self.response.read1(65536)
            if not data:
                return
            self._ready += self._reader.feed(data)

    def take(self, count: int, kind: str = "token") -> list[Event]:
        """Read on until `count` events of one type have come; everything read."""
        taken = []
        for event in self:
            taken.append(event)
            count -= event.data["type"] == kind
            if count == 0:
                break
        return taken

    def rest(self) -> list[Event]:
        """Everything up to the end of the stream."""
        return list(self)


@contextlib.contextmanager
def stream(
    url: str,
    method: str,
    path: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
) -> Iterator[Events]:
    """Open an event stream; an error answer fails the test with its body."""
    connection = connect(url, timeout_s)
    try:
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"Accept": "text/event-stream", **(headers or {})})
        response = connection.getresponse()
        assert response.status == 200, f"HTTP {response.status}: {response.read()!r}"
        yield Events(connection, response)
        response.close()
    finally:
        connection.close()


def text_of(events: list[Event]) -> str:
    """All token text of a stream, after checking that pieces count from their first without a gap."""
    tokens = [event.data for event in events if event.data["type"] == "token"]
    indexes = [token["i"] for token in tokens]
    assert indexes == list(range(indexes[0], indexes[0] + len(indexes))) if indexes else True, indexes
    return "".join(token["t"] for token in tokens)


@dataclass
class Daemon:
    """A daemon under test."""

    process: subprocess.Popen[bytes]
    log_path: Path
    url: str = ""
    pid: int = 0  # the daemon's own, which is not the started process when the file is frozen

    @property
    def log(self) -> str:
        """What it wrote to stderr."""
        return self.log_path.read_text(errors="replace")

    def get(self, path: str, **options: Any) -> Answer:
        """GET a path."""
        return call(self.url, "GET", path, **options)

    def post(self, path: str, body: object = None, **options: Any) -> Answer:
        """POST to a path."""
        return call(self.url, "POST", path, b"" if body is None else body, **options)

    def delete(self, path: str, **options: Any) -> Answer:
        """DELETE a path."""
        return call(self.url, "DELETE", path, **options)

    def kill(self) -> None:
        """kill -9, and wait until nothing of it is left (the frozen file runs as two processes)."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        until(self._is_gone, "the killed process is gone")

    def _is_gone(self) -> bool:
        try:
            os.killpg(self.process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return True
        return False

    def stop(self, timeout_s: float = 20.0) -> int:
        """SIGTERM and wait; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def reap(self) -> None:
        """Whatever happened: no process is left."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()


def start(argv: list[str], env: Mapping[str, str], log_path: Path) -> Daemon:
    """Start a process; its stderr goes to `log_path`."""
    with open(log_path, "ab") as log:
        process = subprocess.Popen(
            argv, env=dict(env), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    return Daemon(process, log_path)


@dataclass
class Cluster:
    """One home with an orchestratord and workers; `close` reaps everything."""

    home: Path
    env: dict[str, str] = field(default_factory=dict)
    daemons: list[Daemon] = field(default_factory=list)

    @property
    def state(self) -> Path:
        """The orchestratord's state directory."""
        return self.home / "state"

    def orchestratord(self, *flags: str, port: int = 0) -> Daemon:
        """Start orchestratord on the home's state directory and wait until it is ready."""
        argv = [*program("orchestratord"), "--port", str(port), "--state", str(self.state), *flags]
        daemon = start(argv, environment(self.home, self.env), self.home / "orchestratord.log")
        self.daemons.append(daemon)
        record = self.state / "orchestratord.json"

        def ready() -> bool:
            assert daemon.process.poll() is None, f"orchestratord ended:\n{daemon.log}"
            try:
                found = json.loads(record.read_text())
                own = found["pid"] == daemon.process.pid or "LLORCH_FROZEN" in os.environ
                daemon.url, daemon.pid = (found["url"], found["pid"]) if own else ("", 0)
                return bool(daemon.url) and daemon.get("/readyz").status == 200
            except (OSError, ValueError):
                return False

        until(ready, f"orchestratord ready\n{daemon.log}", READY_S)
        return daemon

    def worker(self, *flags: str, model: str = "demo", worker_id: str = "", port: int = 0) -> Daemon:
        """Start a real worker and wait until it answers; it announces itself to the orchestratord of this home."""
        port = port or free_port()
        name = worker_id or f"worker-cpu-{port}"
        argv = [*program("worker"), "--model", model, "--port", str(port), "--worker-id", name, *flags]
        env = environment(self.home, {"LLORCH_STATE": str(self.state), **self.env})
        daemon = start(argv, env, self.home / f"{name}.log")
        daemon.url = f"http://127.0.0.1:{port}"
        self.daemons.append(daemon)

        def ready() -> bool:
            assert daemon.process.poll() is None, f"the worker ended:\n{daemon.log}"
            try:
                return daemon.get("/health").status == 200
            except OSError:
                return False

        until(ready, f"worker ready\n{daemon.log}", READY_S)
        return daemon

    def close(self) -> None:
        """Reap every daemon."""
        for daemon in reversed(self.daemons):
            daemon.reap()


def free_port() -> int:
    """A port that was free a moment ago, for daemons that cannot report theirs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def workers_ready(orchestratord: Daemon, count: int) -> None:
    """Wait until so many workers may be used."""

    def ready() -> bool:
        workers = orchestratord.get("/v2/workers").json["workers"]
        return sum(worker["state"] == "ready" for worker in workers) == count

    until(ready, f"{count} workers ready")


def ended(orchestratord: Daemon, job_id: str, timeout_s: float = 30.0) -> dict[str, Any]:
    """Wait until a job has ended; its record."""

    def look() -> dict[str, Any] | None:
        job = orchestratord.get(f"/v2/tasks/{job_id}").json
        return job if job["status"] in ENDED else None

    return dict(until(look, f"{job_id} ended", timeout_s))
