"""A local hub: serves directories as repositories in the hub's own protocol, and misbehaves on request.

    python -m tests.pool.hub --dir DIR --repo ORG/NAME --port 0

prints its URL; `HF_ENDPOINT=URL llorch-pool models download …` then talks to it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+?)(?:/revision/(?P<revision>[^/]+))?/?")
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_CHUNK = 4096


@dataclass
class Repository:
    """A served directory. Files ending in one of `large` are LFS files: their SHA-256 is stated."""

    directory: Path
    gated: bool = False
    large: tuple[str, ...] = (".safetensors", "tokenizer.model")

    def files(self) -> dict[str, bytes]:
        found = (p for p in sorted(self.directory.rglob("*")) if p.is_file())
        return {str(p.relative_to(self.directory)): p.read_bytes() for p in found}

    def commit(self) -> str:
        """A commit hash that changes with the content."""
        digest = hashlib.sha1(usedforsecurity=False)
        for name, data in self.files().items():
            digest.update(name.encode() + b"\0" + hashlib.sha256(data).digest())
        return digest.hexdigest()


def git_blob_id(data: bytes) -> str:
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass
class Hub:
    """What the server serves, how it misbehaves, and what it was asked."""

    repositories: dict[str, Repository]
    cut_after_bytes: int | None = None  # break each file transfer after so many bytes, `cuts` times
    cuts: int = 0
    claim_bytes: int | None = None  # state this size for the weights
    corrupt: int = 0  # serve so many file bodies with wrong bytes
    token: str | None = None  # accepted for gated repositories
    info: bytes | None = None  # answered, with 200, to whoever asks what a repository holds
    licence: str | None = None  # stated for every repository
    hold: threading.Event | None = None  # the body of the weights waits for it after its first half
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, Range
    file_bytes: int = 0  # bytes of file bodies sent
    url: str = ""

    def file_requests(self) -> list[tuple[str, str | None]]:
        """(path, Range) of every file asked for."""
        return [(path, wanted) for method, path, wanted in self.requests if method == "GET" and "/resolve/" in path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        if match := _RESOLVE.fullmatch(path):
            self._file(match["repo"], match["revision"], match["path"])
        elif match := _API.fullmatch(path):
            self._info(match["repo"], match["revision"])
        else:
            self._error(404, "EntryNotFound")

    def _repository(self, name: str, revision: str | None) -> Repository | None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._error(404, "RepoNotFound")
        elif revision not in (None, "main", repository.commit()):
            self._error(404, "RevisionNotFound")
        else:
            return repository
        return None

    def _info(self, name: str, revision: str | None) -> None:
        repository = self._repository(name, revision)
        if repository is None:
            return
        if self.hub.info is not None:
            self._send(200, self.hub.info, {"Content-Type": "application/json"})
            return
        siblings = []
        for path, data in repository.files().items():
            size = len(data)
            if path.endswith(".safetensors") and self.hub.claim_bytes is not None:
                size = self.hub.claim_bytes
            row: dict[str, object] = {"rfilename": path, "size": size, "blobId": git_blob_id(data)}
            if path.endswith(repository.large):
                row["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            siblings.append(row)
        body = {"_id": "0", "id": name, "modelId": name, "sha": repository.commit(), "siblings": siblings}
        body["gated"] = "auto" if repository.gated else False
        if self.hub.licence is not None:
            body["tags"] = ["safetensors", f"license:{self.hub.licence}"]
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, revision: str, path: str) -> None:
        repository = self._repository(name, revision)
        if repository is None:
            return
        authorised = self.hub.token is not None and self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if repository.gated and not authorised:
            self._error(403, "GatedRepo")
            return
        data = repository.files().get(path)
        if data is None:
            self._error(404, "EntryNotFound")
            return
        large = path.endswith(repository.large)
        etag = hashlib.sha256(data).hexdigest() if large else git_blob_id(data)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": repository.commit(), "Accept-Ranges": "bytes"}
        if large:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        self._body(data, headers)

    def _body(self, data: bytes, headers: dict[str, str]) -> None:
        start, status = 0, 200
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(match[1])
            if start >= len(data):
                self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            status = 206
            headers = {**headers, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        if self.command == "GET" and self.hub.corrupt > 0:
            self.hub.corrupt -= 1
            data = bytes(byte ^ 1 for byte in data)
        self._send(status, data[start:], headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        limit = len(body)
        cut = self.hub.cut_after_bytes is not None and self.hub.cuts > 0 and "/resolve/" in self.path
        if cut and self.hub.cut_after_bytes is not None and len(body) > self.hub.cut_after_bytes:
            self.hub.cuts -= 1
            limit = self.hub.cut_after_bytes
        for at in range(0, limit, _CHUNK):
            if self.hub.hold is not None and self.path.endswith(".safetensors") and at >= limit // 2:
                self.hub.hold.wait(30)
            self.wfile.write(body[at : min(at + _CHUNK, limit)])
            if "/resolve/" in self.path:
                self.hub.file_bytes += min(_CHUNK, limit - at)
        if limit < len(body):
            self.wfile.flush()
            self.close_connection = True

    def _error(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code, "Content-Type": "application/json"})


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that went away is no news


@contextmanager
def serve(hub: Hub, port: int = 0, address: str = "127.0.0.1") -> Iterator[Hub]:
    """Serve `hub` at an address of this machine while the block runs; its `url` says where."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    with _Server((address, port), handler) as server:
        hub.url = f"http://{address}:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def main() -> None:
    """Serve one directory until interrupted."""
    parser = argparse.ArgumentParser(description="Serve a model directory as a hub repository on loopback.")
    parser.add_argument("--dir", required=True, type=Path, help="a directory with config.json and *.safetensors")
    parser.add_argument("--repo", required=True, action="append", help="ORG/NAME (may be repeated)")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--cut-after", type=int, metavar="BYTES", help="cut file transfers after so many bytes")
    parser.add_argument("--cuts", type=int, default=1, metavar="N", help="… so many times (default 1)")
    parser.add_argument("--gated-token", metavar="TOKEN", help="serve only to who shows this token")
    flags = parser.parse_args()
    repository = Repository(flags.dir, gated=flags.gated_token is not None)
    hub = Hub(
        dict.fromkeys(flags.repo, repository),
        cut_after_bytes=flags.cut_after,
        cuts=flags.cuts,
        token=flags.gated_token,
    )
    with serve(hub, flags.port):
        print(hub.url, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
