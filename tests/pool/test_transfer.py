"""`models serve` and `models fetch`: one model's files from one home to another over loopback."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.daemons import ROOT, program, until
from tests.pool.pools import Pool, Ran, safetensors

TOKEN = "0123456789abcdef-token"
BIG_BYTES = 6 << 20


@pytest.fixture
def giver(pool: Pool, model_files: Path) -> Pool:
    """A pool that has the model `mine`, with weights of some size."""
    (model_files / "model.safetensors").write_bytes(safetensors(bytes(range(256)) * (BIG_BYTES // 256)))
    pool.ok("models", "import", str(model_files), "--id", "mine")
    return pool


@pytest.fixture
def taker(pool: Pool, tmp_path: Path) -> Pool:
    """A pool that has nothing."""
    home = tmp_path / "taker"
    return Pool(home, {**pool.env, "LLORCH_HOME": str(home)})


@dataclass
class Serving:
    """A running `models serve`."""

    process: subprocess.Popen[str]
    url: str
    model: dict[str, Any]

    def line(self, token: str = TOKEN) -> str:
        return json.dumps({"token": token, "model": self.model}) + "\n"


@contextlib.contextmanager
def serving(pool: Pool, *flags: str) -> Iterator[Serving]:
    """`models serve mine` while the block runs; its stdin stays open until then."""
    argv = [*program("llorch-pool"), "models", "serve", "mine", *flags]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, env=pool.env, cwd=ROOT, text=True, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps({"token": TOKEN, "bind": "127.0.0.1"}) + "\n")
            process.stdin.flush()
            said = json.loads(process.stdout.readline())
            yield Serving(process, said["url"], said["model"])
        finally:
            process.kill()


@dataclass
class Narrow:
    """A way to a server that lets so many bytes of answers through and then holds; it counts them."""

    to: tuple[str, int]
    allowed: int
    url: str = ""
    passed: int = 0
    stuck: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def narrow(url: str, allowed: int) -> Iterator[Narrow]:
    """A `Narrow` in front of `url` while the block runs."""
    parts = urlsplit(url)
    way = Narrow((parts.hostname or "", parts.port or 0), allowed)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        way.url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client = listener.accept()[0]
                    threading.Thread(target=_carry, args=(way, client), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield way
        finally:
            way.closing.set()
            listener.shutdown(socket.SHUT_RDWR)


def _carry(way: Narrow, client: socket.socket) -> None:
    with client, socket.create_connection(way.to) as server, contextlib.suppress(OSError):
        server.sendall(client.recv(65536))  # one request per connection
        while data := server.recv(min(65536, max(1, way.allowed - way.passed))):
            client.sendall(data)
            way.passed += len(data)
            if way.passed >= way.allowed:
                way.stuck.set()
                way.closing.wait(60)
                return


def fetch(pool: Pool, url: str, line: str) -> Ran:
    return pool.run("models", "fetch", url, stdin=line)


def content(pool: Pool) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (pool.home / "models" / "mine").iterdir() if path.is_file()}


def test_a_copy_is_equal_and_recorded_like_a_download(giver: Pool, taker: Pool) -> None:
    """Every byte, every checksum; --once ends the server; a second fetch asks for nothing."""
    with serving(giver, "--once") as served:
        ran = fetch(taker, served.url, served.line())
        assert ran.code == 0, ran.err
        assert served.process.wait(20) == 0
    assert content(taker) == content(giver)
    ours, theirs = (pool.ok("models", "info", "mine", "--json").json() for pool in (taker, giver))
    assert ours["files"] == theirs["files"] and ours["downloaded"] and ours["path"] != theirs["path"]
    taker.ok("models", "verify", "mine")
    again = fetch(taker, "http://127.0.0.1:9", json.dumps({"token": TOKEN, "model": theirs | {"path": ""}}))
    assert again.code == 0 and "already" in again.out


def test_killed_half_way_the_next_fetch_goes_on(giver: Pool, taker: Pool) -> None:
    """kill -9 in the middle of the weights: the catalog says not downloaded, and what is there is not sent again."""
    with serving(giver) as served, narrow(served.url, BIG_BYTES // 2) as way:
        first = taker.popen("models", "fetch", way.url, stdin=subprocess.PIPE)
        assert first.stdin is not None
        first.stdin.write(served.line())
        first.stdin.close()
        assert way.stuck.wait(30)
        until(lambda: _partial_bytes(taker) > BIG_BYTES // 3, "the half is on disk")
        first.kill()
        first.wait()
        assert taker.ok("models", "info", "mine", "--json").json()["downloaded"] is False
        before = _partial_bytes(taker)
        with narrow(served.url, BIG_BYTES * 2) as rest:
            ran = fetch(taker, rest.url, served.line())
            assert ran.code == 0, ran.err
            assert rest.passed < BIG_BYTES - before + 65536
    assert content(taker) == content(giver)


def _partial_bytes(pool: Pool) -> int:
    folder = pool.home / "models" / "mine" / ".partial"
    return sum(path.stat().st_size for path in folder.glob("model.safetensors*")) if folder.is_dir() else 0


def test_a_changed_byte_at_the_source_is_refused(giver: Pool, taker: Pool) -> None:
    """What differs from the recorded checksum never becomes a model."""
    weights = giver.home / "models" / "mine" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1000] ^= 1
    weights.unlink()
    weights.write_bytes(bytes(data))
    with serving(giver) as served:
        ran = fetch(taker, served.url, served.line())
    assert ran.code == 1 and "model.safetensors" in ran.err and "checksum" in ran.err
    assert taker.ok("models", "info", "mine", "--json").json()["downloaded"] is False
    assert not (taker.home / "models" / "mine" / "model.safetensors").exists()


def test_a_wrong_token_gets_nothing(giver: Pool, taker: Pool) -> None:
    """Neither another token nor none opens any path; the words of the refusal do not hold the right one."""
    with serving(giver) as served:
        ran = fetch(taker, served.url, served.line("another-token-of-16"))
        assert ran.code == 1 and "refuses the token" in ran.err and TOKEN not in ran.err + ran.out
        for path in ("/", "/files/0", "/done"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(served.url + path)
            assert refused.value.code == 401
            refused.value.close()
        assert served.process.poll() is None
    assert not (taker.home / "models" / "mine" / "config.json").exists()


def test_nothing_but_the_models_files_is_served(giver: Pool) -> None:
    """Paths are numbers: no text leads out of the model's directory."""
    with serving(giver) as served:
        for path in ("/files/99", "/files/../catalog.json", "/files/-1", "/catalog.json", "/files/"):
            request = urllib.request.Request(served.url + path, headers={"Authorization": f"Bearer {TOKEN}"})
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request)
            assert refused.value.code == 404
            refused.value.close()


def test_the_server_ends_with_its_caller(giver: Pool) -> None:
    """The end of stdin (the SSH session is gone) ends it; so does a time without requests, with exit 1."""
    with serving(giver) as served:
        assert served.process.stdin is not None
        served.process.stdin.close()
        assert served.process.wait(20) == 0
    with serving(giver, "--idle", "0.3") as served:
        assert served.process.wait(20) == 1


def test_what_cannot_be_reached_is_exit_5(giver: Pool, taker: Pool) -> None:
    """A closed port, and a stranger's server: the caller may try another way."""
    with serving(giver) as served, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert fetch(taker, f"http://127.0.0.1:{closed.getsockname()[1]}", served.line()).code == 5


@pytest.mark.parametrize(
    "change",
    [
        {"files": [{"path": "../evil.json", "size_bytes": 1, "sha256": "0" * 64}]},
        {"files": [{"path": "run.py", "size_bytes": 1, "sha256": "0" * 64}]},
        {"files": [{"path": "config.json", "size_bytes": 1}]},
        {"files": []},
        {"id": "../x"},
    ],
    ids=["outside", "code", "no checksum", "no files", "bad id"],
)
def test_a_hostile_offer_is_refused(taker: Pool, change: dict[str, Any]) -> None:
    """Only what could have been downloaded is accepted, before anything is asked for or written."""
    good = {"path": "config.json", "size_bytes": 1, "sha256": "0" * 64}
    offer = {"id": "mine", "name": "Mine", "repo": "", "architecture": "", "path": "", "files": [good], **change}
    ran = fetch(taker, "http://127.0.0.1:9", json.dumps({"token": TOKEN, "model": offer}))
    assert ran.code == 2, ran.err
    assert not taker.home.exists()


def test_another_model_of_the_same_name_is_not_replaced(giver: Pool, taker: Pool) -> None:
    """An id that means something else on the target is an error, and its files stay."""
    taker.ok("models", "register", "--id", "mine", "--repo", "someone/else")
    model = giver.ok("models", "info", "mine", "--json").json() | {"path": "", "repo": "me/Mine"}
    ran = fetch(taker, "http://127.0.0.1:9", json.dumps({"token": TOKEN, "model": model}))
    assert ran.code == 1 and "another model" in ran.err
