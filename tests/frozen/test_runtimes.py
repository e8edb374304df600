"""Runtimes: unpacked once, whole or not at all, and again when they are lost."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from bare_host import Host

from llorch.host import executable

pytestmark = pytest.mark.frozen


def unpacked(host: Host) -> dict[str, Path]:
    """Directories in the cache by their first word; hidden ones (locks aside) under their own names."""
    found = [path for path in host.cache.iterdir() if not path.name.startswith(".lock-")] if host.cache.exists() else []
    return {path.name.split("-")[0] if path.name[0] != "." else path.name: path for path in found}


def test_everything_embedded_unpacks_and_loads(host: Host, loaded: tuple[Path, CompletedProcess[str]]) -> None:
    """`self check` imports torch, tokenizers and cryptography out of the cache; a second one unpacks nothing."""
    cache, first = loaded
    assert (first.returncode, first.stdout) == (0, "net: ok\ntorch: ok\nengine: ok\n"), first.stderr
    assert first.stderr.count("\n") == 1
    assert "unpacking the torch runtime" in first.stderr
    second = host.run("llorch", "self", "check", LLORCH_CACHE=str(cache))
    assert (second.returncode, second.stderr) == (0, "")


def test_three_at_once_unpack_once(host: Host) -> None:
    """One works, the others wait; all are served, and nothing half-done is left."""
    started = [host.start("llorch", "self", "runtimes", "unpack", "net", "program") for _ in range(3)]
    ended = [(*process.communicate(timeout=120), process.returncode) for process in started]
    assert [code for _, _, code in ended] == [0, 0, 0], ended
    assert len({out for out, _, _ in ended}) == 1
    assert set(unpacked(host)) == {"net", "app"}


def test_a_killed_unpacking_is_cleaned_by_the_next(host: Host) -> None:
    """kill -9 in the middle leaves a temporary directory, and nothing that looks complete."""
    process = host.start("llorch", "self", "runtimes", "unpack", "torch", LLORCH_QUIET="1")
    deadline = time.monotonic() + 30
    while not any(name.startswith(".tmp-torch") for name in unpacked(host)):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in [*map(int, children), process.pid]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert "torch" not in unpacked(host)
    assert host.run("llorch", "self", "runtimes", "unpack", "net").returncode == 0
    assert host.run("llorch", "self", "runtimes", "unpack", "torch").returncode == 0
    assert set(unpacked(host)) == {"torch", "net", "app"}


def test_a_damaged_file_is_refused_in_one_line(host: Host) -> None:
    """One flipped byte in a runtime: exit 1, no traceback, nothing left that could be taken for whole."""
    damaged = host.folder / "damaged"
    shutil.copy(host.program, damaged)
    entry = executable.read_package(damaged).payload("runtime-net.tar.zst")
    assert entry is not None
    with open(damaged, "r+b") as file:
        file.seek(entry.offset + entry.stored_bytes // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 255]))
    done = host.run(damaged, "self", "runtimes", "unpack", "net")
    assert done.returncode == 1
    assert "damaged" in done.stderr
    assert done.stderr.count("\n") == 1
    assert set(unpacked(host)) == {"app"}


def test_an_unwritable_cache_stops_only_who_needs_it(host: Host) -> None:
    """Light commands go on; the others say what to do, in one line."""
    (host.folder / "file").write_text("")
    blocked = str(host.folder / "file" / "cache")
    assert host.run("llorch-pool", "worker", "list", LLORCH_CACHE=blocked).returncode == 0
    done = host.run("llorch", "self", "runtimes", "unpack", "net", LLORCH_CACHE=blocked)
    assert done.returncode == 1
    assert "set LLORCH_CACHE" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_cached_program_finds_its_runtimes_in_the_file_it_came_from(host: Host) -> None:
    """It carries none itself; without that file it says what is missing."""
    origin = host.folder / "llorch"
    os.link(host.program, origin)
    program = host.run(origin, "self", "runtimes", "unpack", "program").stdout.split()[1]
    cached = Path(program) / "llorch"
    assert cached.stat().st_size < 60_000_000
    assert host.run(cached, "self", "runtimes", "unpack", "net").returncode == 0
    shutil.rmtree(unpacked(host)["net"])
    origin.unlink()
    lost = host.run(cached, "self", "runtimes", "unpack", "net")
    assert lost.returncode == 1
    assert "copy the llorch file again" in lost.stderr
