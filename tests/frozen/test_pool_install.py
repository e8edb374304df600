"""The one file brought onto a host through a real sshd, used there, and gone again without a trace."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bare_host import Host

from llorch.host import in_use
from tests.remote.forwarder import Forwarder
from tests.remote.sshd import SSHD, Sshd, running_sshd

pytestmark = [pytest.mark.frozen, pytest.mark.e2e]


@pytest.fixture
def sshd(host: Host) -> Iterator[Sshd]:
    """The other machine: an empty home of its own."""
    if not SSHD.exists():
        pytest.skip("needs OpenSSH's server: apt-get install openssh-server")
    with running_sshd(host.folder / "sshd") as running:
        yield running


def remains(sshd: Sshd) -> list[str]:
    return [str(path.relative_to(sshd.remote_home)) for path in sshd.remote_home.rglob("*") if not path.is_dir()]


@contextmanager
def through_a_counter(sshd: Sshd) -> Iterator[Forwarder]:
    """The client's way to the host leads through a forwarder that counts."""
    config, known = (sshd.home / ".ssh" / name for name in ("config", "known_hosts"))
    before = config.read_text(), known.read_text()
    with Forwarder(sshd.port) as counter:
        for path, text in zip((config, known), before, strict=True):
            path.write_text(text.replace(str(sshd.port), str(counter.port)))
        yield counter
    for path, text in zip((config, known), before, strict=True):
        path.write_text(text)


def test_install_use_and_leave_without_a_trace(host: Host, sshd: Sshd) -> None:
    """install, again without a copy, status, spawn, again beside the worker, uninstall --purge: no file, no process."""

    def pool(*words: str, program: Path | None = None) -> subprocess.CompletedProcess[str]:
        argv = (program or host.program, "pool", *words, "--host", "pool-a")
        done = host.run(*argv, HOME=str(sshd.home), LLORCH_CACHE=str(host.cache))
        assert done.returncode == 0, done.stderr
        return done

    size = host.program.stat().st_size
    with through_a_counter(sshd) as counter:
        first = json.loads(pool("install", "--json").stdout)
        assert first["outcome"] == "installed" and counter.moved_bytes > first["copied_bytes"] == size
        moved = counter.moved_bytes
        assert json.loads(pool("install", "--json").stdout)["copied_bytes"] == 0
        assert counter.moved_bytes - moved < 1 << 20
    status = pool("status", "--json")
    assert json.loads(status.stdout)["build_id"] == first["build_id"] and "this is" not in status.stderr
    worker = json.loads(pool("worker", "spawn", "cpu", "--model", "demo", "--insecure-lan", "--json").stdout)["worker"]
    installed = json.loads(pool("upgrade", "--json").stdout)
    assert (installed["outcome"], installed["workers"]) == ("unchanged", [])
    host.run(host.program, "self", "install", "--prefix", host.folder / "own")
    folder = json.loads(
        pool("install", "--json", "--prefix", "~/second", program=host.folder / "own/bin/llorch").stdout
    )
    assert folder["outcome"] == "installed" and folder["build_id"] == first["build_id"]
    pool("uninstall", "--yes", "--prefix", "~/second")
    assert in_use.users([sshd.remote_home]) == [], "it is one pool: its workers were stopped"
    assert worker["worker_id"] not in pool("worker", "list").stdout
    pool("uninstall", "--yes", "--purge")
    assert remains(sshd) == []
