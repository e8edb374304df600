"""`models serve`: one model's files over HTTP for another pool, for as long as one copy takes. Nothing stays behind.

stdin brings one JSON line, {"token": "…", "bind": "10.0.0.5"}, and then stays open: when it ends (the SSH session that
started us is gone) so do we. stdout says {"type": "serving", "url", "model"}; `model` holds the checksums, which must
reach the other pool by a way that is not this HTTP.

GET /          {"llorch": version, "model": id}
GET /files/N   file N of the model, `Range: bytes=K-` honoured
GET /done      the copy is complete: with --once we end
"""

from __future__ import annotations

import argparse
import hmac
import json
import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

import llorch
from llorch.base.addresses import local_url, parse
from llorch.base.errors import HostError, LlorchError, NotFound, UsageError
from llorch.base.home import find_home
from llorch.host import interrupts
from llorch.pool import arrival, catalog_file
from llorch.pool.handover import LOOPBACK, SIZE_MAX
from llorch.pool.terminal import Terminal
from llorch.wire import strict_json
from llorch.wire.catalog import ModelEntry
from llorch.wire.fields import Fields

IDLE_S = 300.0  # a receiver that checks what it has already asks for nothing meanwhile
_CONNECTIONS_MAX = 32
_REQUEST_TIMEOUT_S = 60.0
_CHUNK_BYTES = 1 << 20
_POLL_S = 0.2


def serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="ID")
    parser.add_argument("--once", action="store_true", help="end when one copy is complete")
    parser.add_argument("--idle", type=float, default=IDLE_S, metavar="S", help="end after S seconds unasked (300)")
    parser.epilog = (
        'stdin brings {"token": "…", "bind": "ADDRESS"} and its end ends us. Started by llorch pool models copy.'
    )


def serve(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Serve until the copy is done (--once), stdin ends, or nobody asks for a while (exit 1)."""
    home = find_home(os.environ)
    entry = catalog_file.load(home).get(arguments.model)
    if entry.embedded:
        raise HostError(f"model '{entry.id}' is part of llorch: every pool has it")
    if not arrival.is_here(home, entry):
        raise NotFound(f"model '{entry.id}' is not downloaded here, or not whole (models verify {entry.id})")
    token, bind = _read_line()
    with _Server(bind, entry, catalog_file.directory(home, entry), token, arguments.idle) as server:
        server.ends_when_done = arguments.once
        url = local_url(bind, server.server_address[1])
        print(json.dumps({"type": "serving", "url": url, "model": entry.to_body()}), flush=True)
        threading.Thread(target=_watch_stdin, args=(server,), daemon=True).start()
        with interrupts.as_keyboard_interrupt():
            server.serve_forever(_POLL_S)
    if server.timed_out:
        raise HostError(f"nobody asked for {entry.id} for {arguments.idle:g} s")
    return 0


def _read_line() -> tuple[str, str]:
    """Token and address from stdin. Raises UsageError, without echoing them."""
    line = sys.stdin.buffer.readline(SIZE_MAX + 1)
    try:
        fields = Fields(strict_json.parse_object(line), ("token", "bind"))
        token = fields.required_text("token", size_max=1024)
        bind = fields.text("bind", size_max=64) or LOOPBACK
        if parse(bind) is None:
            fields.problem("bind", "must be an IP address")
        if len(token) < 16 or not token.isascii() or not token.isprintable():
            fields.problem("token", "must be at least 16 printable ASCII characters")
        fields.done()
    except LlorchError as error:
        raise UsageError(f"the line on stdin: {error.message}") from None
    return token, bind


def _watch_stdin(server: _Server) -> None:
    # Not through the buffer: a thread that waits there at the end of the program aborts it.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    server.end()


class _Server(ThreadingHTTPServer):
    """Serves one model; `last_active` (monotonic seconds) is when a byte was last asked for or sent."""

    daemon_threads = True

    def __init__(self, bind: str, entry: ModelEntry, folder: Path, token: str, idle_s: float) -> None:
        self.address_family = socket.AF_INET6 if ":" in bind else socket.AF_INET
        self.entry, self.folder, self.token, self.idle_s = entry, folder, token, idle_s
        self.ends_when_done = self.timed_out = self._ending = False
        self.last_active = time.monotonic()
        self._seats = threading.BoundedSemaphore(_CONNECTIONS_MAX)
        try:
            super().__init__((bind, 0), _Handler)
        except OSError as error:
            raise HostError(f"cannot listen on {bind}: {error.strerror or error}") from None

    def server_bind(self) -> None:
        """Like the base class's base: the one in between looks the host's name up, which may take long."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def end(self) -> None:
        """Stop serving, from any thread."""
        if not self._ending:
            self._ending = True
            threading.Thread(target=self.shutdown, daemon=True).start()

    def service_actions(self) -> None:
        """Between requests: has nobody asked for too long?"""
        if time.monotonic() - self.last_active > self.idle_s and not self._ending:
            self.timed_out = True
            self.end()

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """One thread per connection, and never more than a few."""
        if self._seats.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        """In the connection's own thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._seats.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A receiver that went away comes again, or does not; either is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _REQUEST_TIMEOUT_S

    def log_message(self, format: str, *args: object) -> None:
        """stderr is the operator's."""

    def do_GET(self) -> None:
        offered = self.headers.get("Authorization", "").encode("utf-8", "replace")
        if not hmac.compare_digest(offered, f"Bearer {self.server.token}".encode()):
            return self._answer(401, {"error": "unauthorized"})
        self.server.last_active = time.monotonic()
        kind, _, number = self.path.lstrip("/").partition("/")
        if self.path == "/":
            return self._answer(200, {"llorch": llorch.__version__, "model": self.server.entry.id})
        if self.path == "/done":
            self._answer(200, {"done": True})
            return self.server.end() if self.server.ends_when_done else None
        if kind == "files" and number.isdecimal() and int(number) < len(self.server.entry.files):
            return self._send_file(int(number))
        return self._answer(404, {"error": "not found"})

    def _answer(self, status: int, body: dict[str, object]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _send_file(self, number: int) -> None:
        """File `number` from the asked byte on, as it lies on disk now; the receiver checks it."""
        stated = self.server.entry.files[number]
        start = self._range_start()
        try:
            file = open(self.server.folder / stated.path, "rb")  # noqa: SIM115  (closed by who sends it)
        except OSError:
            return self._answer(410, {"error": "gone"})
        return self._send_from(file, start)

    def _send_from(self, file: BinaryIO, start: int) -> None:
        with file:
            size = os.fstat(file.fileno()).st_size
            if start > size:
                self._answer(416, {"error": "range"})
                return
            file.seek(start)
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.send_header("Content-Length", str(size - start))
            self.end_headers()
            while data := file.read(_CHUNK_BYTES):
                self.wfile.write(data)
                self.server.last_active = time.monotonic()

    def _range_start(self) -> int:
        """The K of `Range: bytes=K-`; 0 for none and for every other form, which a server may ignore."""
        wanted = self.headers.get("Range", "").removeprefix("bytes=").removesuffix("-")
        return int(wanted) if wanted.isdecimal() else 0
