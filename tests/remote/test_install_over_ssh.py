"""`llorch pool install|upgrade|rollback|uninstall` through a real sshd, with a stand-in for the frozen file."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llorch.host import strays
from tests.daemons import until
from tests.remote import stand_in
from tests.remote.cli import Done, llorch
from tests.remote.forwarder import Forwarder
from tests.remote.sshd import SSHD, Sshd, program, running_sshd

BUILDS = ("aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Sshd]:
    """A host of its own: nothing is installed there."""
    if not SSHD.exists():
        pytest.skip("needs OpenSSH's server: apt-get install openssh-server")
    with running_sshd(tmp_path / "host") as running:
        yield running


def pool(host: Sshd, *words: str, to: str = "pool-a") -> Done:
    return llorch("pool", *words, "--host", to, env=host.env)


def names(host: Sshd) -> list[str]:
    return sorted(path.name for path in (host.remote_home / ".local" / "lib" / "llorch").iterdir())


def current(host: Sshd) -> str:
    return (host.remote_home / ".local" / "bin" / "llorch").resolve().parent.name


def remains(host: Sshd) -> list[str]:
    """Every file of the host's home."""
    return [str(path.relative_to(host.remote_home)) for path in host.remote_home.rglob("*") if not path.is_dir()]


def test_it_copies_checks_installs_and_links(host: Sshd, tmp_path: Path) -> None:
    """The file arrives whole, runs its own `self install`, and llorch-pool is found from then on; no copy stays."""
    file = stand_in.write(tmp_path / "llorch-1", BUILDS[0], filler_bytes=3 << 20)
    (tmp_path / "link").symlink_to(file)
    file = tmp_path / "link"
    done = pool(host, "install", "--binary", str(file))
    assert done.code == 0, done.err
    assert "installed llorch 0.1.0 (build aaaaaaaaaaaa)" in done.out and "3.1 MB copied" in done.out
    assert "100 % of 3.1 MB" in done.err and done.err.count("copying [") >= 5
    installed = host.remote_home / ".local" / "lib" / "llorch" / f"0.1.0-{BUILDS[0]}" / "llorch"
    assert stand_in.sha256(installed) == stand_in.sha256(file) and not installed.is_symlink()
    assert list((host.remote_home / ".cache" / "llorch").iterdir()) == []
    assert pool(host, "worker", "list").code == 0


def go_through(host: Sshd, forwarder: Forwarder) -> None:
    """From here on the host is reached by way of `forwarder`."""
    config = (host.home / ".ssh" / "config").read_text()
    host.write_config(config.replace(f"Port {host.port}", f"Port {forwarder.port}"))
    host.known_hosts.write_text(f"[127.0.0.1]:{forwarder.port} {host.host_key}\n")


def test_the_same_build_is_not_copied_again(host: Sshd, tmp_path: Path) -> None:
    """A second install of the same file moves less than 1 MB over the network, whatever its size."""
    file = stand_in.write(tmp_path / "llorch-1", BUILDS[0], filler_bytes=5 << 20)
    with Forwarder(host.port) as forwarder:
        go_through(host, forwarder)
        assert pool(host, "install", "--binary", str(file)).code == 0
        first = forwarder.moved_bytes
        again = pool(host, "install", "--binary", str(file), "--json")
    body = json.loads(again.out)
    assert (again.code, body["outcome"], body["copied_bytes"]) == (0, "unchanged", 0), again.err
    assert first > 5 << 20 and forwarder.moved_bytes - first < 1 << 20


def test_rollback_goes_to_the_version_before_and_back(host: Sshd, tmp_path: Path) -> None:
    """Two builds: rollback switches the links between them; with one it says that there is none."""
    files = [stand_in.write(tmp_path / f"llorch-{build}", build) for build in BUILDS[:2]]
    pool(host, "install", "--binary", str(files[0]))
    refused = pool(host, "rollback")
    assert refused.code == 1 and "no version before" in refused.err
    assert BUILDS[0] in pool(host, "install", "--binary", str(files[1])).out
    assert current(host) == f"0.1.0-{BUILDS[1]}"
    for build in (BUILDS[0], BUILDS[1]):
        done = pool(host, "rollback")
        assert done.code == 0 and current(host) == f"0.1.0-{build}", done.err
    switched = pool(host, "install", "--binary", str(files[0]), "--json")
    assert json.loads(switched.out)["outcome"] == "switched" and current(host) == f"0.1.0-{BUILDS[0]}"


def test_hosts_that_cannot_run_it_refuse_in_one_line(host: Sshd, tmp_path: Path) -> None:
    """Not a program, another platform, an unwritable place, a copy that will not install: one line, 1, nothing left."""
    text = tmp_path / "text"
    text.write_text("hello")
    mac = tmp_path / "mac"
    mac.write_bytes(bytes.fromhex("cffaedfe0c000001") + bytes(64))
    good = stand_in.write(tmp_path / "good", BUILDS[0])
    broken = stand_in.write(tmp_path / "broken", BUILDS[1], extra="echo \"version 'GLIBC_2.99' not found\" >&2; exit 1")
    rows = [
        (("--binary", str(text)), "not a program"),
        (("--binary", str(mac)), "is for darwin-aarch64, and the host is linux-"),
        (("--binary", str(tmp_path / "missing")), "cannot read"),
        (("--binary", str(broken)), "is too old: this build needs glibc 2.99"),
        (("--binary", str(good), "--prefix", "/proc/llorch"), "not writable there: choose another --prefix"),
        ((), "build it with ./install.sh"),
    ]
    for words, why in rows:
        done = pool(host, "install", *words)
        assert done.code == 1 and why in done.err, done
        assert next(line for line in done.err.splitlines() if "copying" not in line).startswith("llorch: pool-a: ")
    assert [name for name in remains(host) if "upload" in name or name.endswith("/llorch")] == []


def test_a_host_without_sftp_is_named(tmp_path: Path) -> None:
    """No SFTP subsystem: one line that says what to enable."""
    with running_sshd(tmp_path / "host", sftp=False) as host:
        done = pool(host, "install", "--binary", str(stand_in.write(tmp_path / "llorch-1", BUILDS[0])))
    assert done.code == 1 or done.code == 255
    assert "offers no SFTP" in done.err and "Subsystem sftp" in done.err


def test_several_hosts_at_once(host: Sshd, tmp_path: Path) -> None:
    """Each line is led by its host, one that fails makes it 1, the others are installed; --json is by host."""
    file = stand_in.write(tmp_path / "llorch-1", BUILDS[0], filler_bytes=1 << 20)
    with running_sshd(tmp_path / "second") as second:
        config = (host.home / ".ssh" / "config").read_text()
        host.write_config(config + config.replace("pool-a", "pool-b").replace(str(host.port), str(second.port)))
        with open(host.known_hosts, "a") as known:
            known.write(f"[127.0.0.1]:{second.port} {second.host_key}\n")
        (second.log.parent / "authorized_keys").write_text((host.log.parent / "authorized_keys").read_text())
        done = pool(host, "install", "--binary", str(file), to="pool-a,pool-b,127.0.0.2")
        assert done.code == 1
        assert "3 hosts, 1 failed (127.0.0.2: exit 255)" in done.err
        assert {line.partition(": ")[0] for line in done.out.splitlines()} == {"pool-a", "pool-b"}
        body = json.loads(pool(host, "install", "--json", "--binary", str(file), to="pool-a,pool-b").out)
        assert {body[name]["output"]["outcome"] for name in ("pool-a", "pool-b")} == {"unchanged"}


def test_an_interrupted_copy_leaves_nothing(host: Sshd, tmp_path: Path) -> None:
    """Ctrl-C in mid-copy: 130, the half copy is removed over there, and the same command then succeeds."""
    file = stand_in.write(tmp_path / "llorch-1", BUILDS[0], filler_bytes=48 << 20)
    cache = host.remote_home / ".cache" / "llorch"
    words = [*program(), "pool", "install", "--binary", str(file), "--host", "pool-a"]
    copying = subprocess.Popen(words, env=host.env, stderr=subprocess.DEVNULL)
    until(lambda: [p for p in cache.glob(".upload-*/llorch") if p.stat().st_size], "the copy begins")
    copying.send_signal(signal.SIGINT)
    assert copying.wait(30) == 130
    assert list(cache.iterdir()) == []
    assert pool(host, "install", "--binary", str(file)).code == 0


def test_a_broken_connection_is_told_in_one_line(host: Sshd, tmp_path: Path) -> None:
    """A connection that is lost in mid-copy: 255 and one line, however many blocks were under way."""
    file = stand_in.write(tmp_path / "llorch-1", BUILDS[0], filler_bytes=48 << 20)
    with Forwarder(host.port, breaks_after_bytes=16 << 20) as forwarder:
        go_through(host, forwarder)
        done = pool(host, "install", "--binary", str(file))
    told = [line for line in done.err.splitlines() if not line.startswith("copying [")]
    assert done.code == 255 and len(told) == 1 and told[0].startswith("llorch: pool-a: "), done.err


def test_two_installations_at_once(host: Sshd, tmp_path: Path) -> None:
    """The same build installed twice at the same time: both succeed, one version is there."""
    file = stand_in.write(tmp_path / "llorch-1", BUILDS[0], filler_bytes=4 << 20)
    done: list[Done] = []
    both = [threading.Thread(target=lambda: done.append(pool(host, "install", "--binary", str(file)))) for _ in "ab"]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert [one.code for one in done] == [0, 0], done
    assert names(host) == [f"0.1.0-{BUILDS[0]}"] and list((host.remote_home / ".cache" / "llorch").iterdir()) == []


def test_a_changed_byte_is_found(host: Sshd, tmp_path: Path) -> None:
    """What arrives is compared by its hash there: a host that stores something else refuses to run it."""
    file = stand_in.write(tmp_path / "llorch-1", BUILDS[0])
    liar = host.remote_bin / "sha256sum"
    liar.write_text("#!/bin/sh\nexit 1\n")
    liar.chmod(0o755)
    done = pool(host, "install", "--binary", str(file))
    assert done.code == 1 and "does not match its checksum" in done.err
    assert not (host.remote_home / ".local").exists()


def test_the_profile_may_need_a_path(host: Sshd, tmp_path: Path) -> None:
    """Under another prefix a note says how to find it; where nothing else is found, the command is exact."""
    file = stand_in.write(tmp_path / "llorch-1", BUILDS[0])
    done = pool(host, "install", "--binary", str(file), "--prefix", "~/odd place")
    assert done.code == 0, done.err
    assert f"llorch pool register pool-a --path {host.remote_home}/odd place/bin/llorch-pool" in done.err
    assert (host.remote_home / "odd place" / "bin" / "llorch").exists()
    assert pool(host, "install", "--binary", str(file), "--prefix", "relative").code == 2


def answered(host: Sshd, answer: bytes) -> tuple[int, str]:
    """`pool uninstall` on a terminal where a person types `answer`; its exit code and what it asked."""
    ours, theirs = pty.openpty()
    try:
        words = [*program(), "pool", "uninstall", "--host", "pool-a"]
        asking = subprocess.Popen(words, env=host.env, stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        os.write(ours, answer)
        asked = asking.communicate(timeout=60)[1]
        return asking.returncode, asked.decode()
    finally:
        os.close(ours)
        os.close(theirs)


def test_uninstall_asks_before_it_stops_anything(host: Sshd, tmp_path: Path) -> None:
    """On a terminal it names what runs there: no leaves all as it was, yes ends and removes it."""
    pool(host, "install", "--binary", str(stand_in.write(tmp_path / "llorch-1", BUILDS[0])))
    busy = host.remote_home / ".local" / "lib" / "llorch" / f"0.1.0-{BUILDS[0]}" / "busy"
    shutil.copy("/bin/sleep", busy)
    running = subprocess.Popen([busy, "600"])
    try:
        code, asked = answered(host, b"n\n")
        assert code == 1 and f"process {running.pid} runs" in asked and "nothing was touched" in asked
        assert running.poll() is None and busy.exists()
        code, asked = answered(host, b"yes\n")
        assert code == 0 and running.wait(10) != 0 and not busy.exists(), asked
    finally:
        running.kill()


def test_remains_are_removed_where_the_program_is_gone(host: Sshd, tmp_path: Path) -> None:
    """uninstall removes a half copy, --purge the models that an earlier one kept; --yes ends what still runs."""
    file = str(stand_in.write(tmp_path / "llorch-1", BUILDS[0]))
    home = host.remote_home
    model = home / ".local" / "share" / "llorch" / "models" / "tiny" / "config.json"
    for path in (home / ".cache" / "llorch" / ".upload-abcdef" / "llorch", model):
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    done = pool(host, "uninstall", "--binary", file)
    assert done.code == 0 and str(home / ".cache" / "llorch") in done.err, done.err
    assert remains(host) == [str(model.relative_to(home))]
    assert "not installed" in pool(host, "uninstall").out and model.exists()
    unpacked = home / ".cache" / "llorch" / "app-aaaaaaaaaaaa" / "llorch"
    unpacked.parent.mkdir(parents=True)
    shutil.copy("/bin/sleep", unpacked)
    running = subprocess.Popen([unpacked, "600"])
    try:
        refused = pool(host, "uninstall", "--purge", "--binary", file)
        assert refused.code == 1 and f"process {running.pid}" in refused.err and model.exists()
        assert pool(host, "uninstall", "--purge", "--yes", "--binary", file).code == 0
        assert running.wait(10) != 0 and remains(host) == []
    finally:
        running.kill()
    assert "not installed" in pool(host, "uninstall", "--purge").out


@pytest.mark.e2e
def test_upgrade_restarts_workers_one_by_one(host: Sshd, tmp_path: Path) -> None:
    """Install does not disturb a running worker; upgrade drains it and starts the same again: id, port and settings."""
    settings = f"export LLORCH_CACHE={os.environ['LLORCH_CACHE']}" if "LLORCH_CACHE" in os.environ else ""
    files = [stand_in.write(tmp_path / f"llorch-{build}", build, settings=settings) for build in BUILDS[:2]]
    assert pool(host, "install", "--binary", str(files[0])).code == 0
    try:
        words = ("worker", "spawn", "cpu", "--model", "demo", "--slots", "3", "--insecure-lan", "--json")
        spawned = pool(host, *words)
        assert spawned.code == 0, spawned.err
        before = json.loads(spawned.out)["worker"]
        assert pool(host, "install", "--binary", str(files[1])).code == 0
        (row,) = json.loads(pool(host, "worker", "list", "--json").out)["workers"]
        assert (row["pid"], row["status"]) == (before["pid"], "Running")
        done = pool(host, "upgrade", "--binary", str(files[1]), "--json")
        assert done.code == 0, done.err
        assert [(w["worker_id"], w["outcome"]) for w in json.loads(done.out)["workers"]] == [
            (before["worker_id"], "restarted")
        ]
        (row,) = json.loads(pool(host, "worker", "list", "--json").out)["workers"]
        assert (row["worker_id"], row["port"], row["status"]) == (before["worker_id"], before["port"], "Running")
        assert row["pid"] != before["pid"] and row["health"]["slots_total"] == 3
        refused = pool(host, "uninstall")
        assert refused.code == 2 and "--yes" in refused.err and before["worker_id"] in refused.err
    finally:
        gone = pool(host, "uninstall", "--yes", "--purge")
    assert gone.code == 0, gone.err
    assert remains(host) == []
    assert strays.find_by_environment("HOME", str(host.remote_home)) == []
    assert "not installed" in pool(host, "uninstall").out
