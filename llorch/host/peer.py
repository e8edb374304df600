"""Another pool as a source of model files: `llorch-pool models serve` over there, plain HTTP between the two.

The content is trusted for its checksums only; those came by another way (SSH).
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from llorch.base.errors import HostError, Unreachable, UsageError
from llorch.host.fetch import BUSY, Body, Interrupted, RemoteFile

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 20
_ANSWER_BYTES_MAX = 4096


class PeerSource:
    """The files of one model, numbered as in `files`, at a serving pool's `url`."""

    name = "the other pool"

    def __init__(self, url: str, token: str, files: Sequence[RemoteFile]) -> None:
        """Raises UsageError when `url` is not http://HOST:PORT."""
        parts = urlsplit(url)
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if parts.scheme != "http" or not host or not port or parts.path not in ("", "/"):
            raise UsageError("the URL must be http://HOST:PORT")
        self._host, self._port = host, port
        self._headers = {"Authorization": f"Bearer {token}"}
        self._numbers = {file.path: number for number, file in enumerate(files)}

    def check(self) -> None:
        """Is it there, and does it know us? Raises Unreachable, HostError."""
        try:
            with self._get("/", {}) as response:
                body = json.loads(_read_all(response))
        except Interrupted as error:
            raise Unreachable(f"{self._host} port {self._port} cannot be reached from here ({error})") from None
        except ValueError:
            body = None
        if not isinstance(body, dict) or "llorch" not in body:
            raise Unreachable(f"what answers at {self._host} port {self._port} is not the other pool")

    def cached(self, file: RemoteFile) -> Path | None:
        """Another pool has nothing on this host."""
        return None

    @contextmanager
    def open(self, file: RemoteFile, from_bytes: int) -> Iterator[Body]:
        """The file from a byte on. Raises Interrupted, and HostError for a refusal."""
        headers = {"Range": f"bytes={from_bytes}-"} if from_bytes else {}
        with self._get(f"/files/{self._numbers[file.path]}", headers) as response:
            yield Body(response.status == 206, _chunks(response))

    def finish(self) -> None:
        """Tell the other side that nothing more will be asked; whether it hears that does not matter."""
        try:
            with self._get("/done", {}) as response:
                _read_all(response)
        except (Interrupted, HostError):
            pass

    @contextmanager
    def _get(self, path: str, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=CONNECT_TIMEOUT_S)
        try:
            yield self._answer(connection, path, {**self._headers, **headers})
        finally:
            connection.close()

    @staticmethod
    def _answer(connection: http.client.HTTPConnection, path: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        """Only what goes wrong with the connection is Interrupted; what the caller does with the bytes is its own."""
        with _passing():
            connection.connect()
            connection.sock.settimeout(READ_TIMEOUT_S)
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
        if response.status in BUSY:
            raise Interrupted(f"status {response.status}")
        if response.status == 401:
            raise HostError("the other pool refuses the token")
        if response.status not in (200, 206):
            raise HostError(f"the other pool answers {response.status}: it does not have what was asked for any more")
        return response


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while data := _read(response):
        yield data


def _read(response: http.client.HTTPResponse) -> bytes:
    """What has come; empty at the end."""
    with _passing():
        return response.read1(_CHUNK_BYTES)


def _read_all(response: http.client.HTTPResponse) -> bytes:
    with _passing():
        return response.read(_ANSWER_BYTES_MAX)


@contextmanager
def _passing() -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(str(error) or type(error).__name__) from None
