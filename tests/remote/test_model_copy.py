"""`llorch pool models copy` and `models download --host` through a real sshd: two pools with homes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import pytest

from tests.daemons import until
from tests.pool.hub import Hub, Repository, serve
from tests.pool.pools import REPO, safetensors
from tests.remote.cli import Done, install_pool, llorch
from tests.remote.sshd import Sshd, program

WEIGHTS = safetensors(bytes(range(256)) * 8192)


@dataclass(frozen=True)
class Pools:
    """Pools `a` (has the model qwen-0.5b, from the hub) and `b` (has nothing; the hub is out of its reach)."""

    sshd: Sshd
    hub: Hub
    a: Path
    b: Path
    wrapper_b: Path

    def llorch(self, *words: str) -> Done:
        return llorch("pool", *words, env=self.sshd.env)

    def content(self, home: Path) -> dict[str, bytes]:
        folder = home / "models" / "qwen-0.5b"
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} if folder.is_dir() else {}

    def info(self, pool: str) -> dict[str, object]:
        done = self.llorch("models", "info", "qwen-0.5b", "--json", "--host", pool)
        return dict(json.loads(done.out))


@pytest.fixture
def pools(sshd: Sshd, tmp_path: Path) -> Iterator[Pools]:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    (folder / "tokenizer.json").write_text("{}" * 500)
    config = sshd.home / ".config" / "llorch" / "llorch.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    with serve(Hub({REPO: Repository(folder)})) as hub:
        wrappers = {
            name: install_pool(
                sshd,
                {
                    "LLORCH_HOME": str(tmp_path / name),
                    "HF_HOME": str(tmp_path / f"hf-{name}"),
                    "HF_ENDPOINT": hub.url if name == "a" else "http://127.0.0.1:9",
                },
                folder=f"bin {name}",
            )
            for name in ("a", "b")
        }
        config.write_text("".join(f'[pools.{n}]\nhost = "pool-a"\npath = "{path}"\n' for n, path in wrappers.items()))
        made = Pools(sshd, hub, tmp_path / "a", tmp_path / "b", Path(wrappers["b"]))
        done = made.llorch("models", "download", "qwen-0.5b", "--no-lan", "--host", "a")
        assert done.code == 0, done.err
        yield made
    config.unlink()


def test_a_copy_is_equal_and_leaves_nothing_running(pools: Pools) -> None:
    """Bytes, checksums and commit are the source's; the hub is not asked; no server is left."""
    asked = len(pools.hub.requests)
    done = pools.llorch("models", "copy", "qwen-0.5b", "--from", "a", "--to", "b")
    assert done.code == 0, done.err
    assert pools.content(pools.b) == pools.content(pools.a) != {}
    here, there = pools.info("b"), pools.info("a")
    assert (here["files"], here["revision"]) == (there["files"], there["revision"])
    assert len(pools.hub.requests) == asked
    until(lambda: not _serving(pools.a), "the serving process is gone")
    again = pools.llorch("models", "copy", "qwen-0.5b", "--from", "a", "--to", "b", "--json")
    assert json.loads(again.out)["pools"]["b"]["already"] is True


def _serving(home: Path) -> bool:
    """Does a process of this home serve models?"""
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"serve" in words and f"LLORCH_HOME={home}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                return True
        except OSError:
            continue
    return False


def test_the_bytes_may_go_through_this_machine(pools: Pools) -> None:
    """--relay: the same result through both SSH connections."""
    done = pools.llorch("models", "copy", "qwen-0.5b", "--from", "a", "--to", "b", "--relay")
    assert done.code == 0, done.err
    assert "through this machine" in done.err
    assert pools.content(pools.b) == pools.content(pools.a) != {}


def test_pools_that_do_not_reach_each_other_are_relayed(pools: Pools) -> None:
    """Where the first fetch finds no way (exit 5), the copy goes through this machine, and says so."""
    real = pools.wrapper_b.with_name("real")
    pools.wrapper_b.rename(real)
    mark = pools.wrapper_b.with_name("was-here")
    pools.wrapper_b.write_text(
        f'#!/bin/sh\nif [ "$2" = fetch ] && [ ! -e {quote(str(mark))} ]; then touch {quote(str(mark))}; exit 5; fi\n'
        f'exec {quote(str(real))} "$@"\n'
    )
    pools.wrapper_b.chmod(0o755)
    done = pools.llorch("models", "copy", "qwen-0.5b", "--from", "a", "--to", "b")
    assert done.code == 0, done.err
    assert "b does not reach a" in done.err and "slower" in done.err
    assert pools.content(pools.b) == pools.content(pools.a) != {}


def test_one_of_several_targets_may_fail(pools: Pools) -> None:
    """The others have the model, the exit code is 1, and --json tells them apart."""
    config = pools.sshd.home / ".config" / "llorch" / "llorch.toml"
    config.write_text(config.read_text() + '[pools.gone]\nhost = "127.0.0.1"\nport = 1\n')
    words = ("models", "copy", "qwen-0.5b", "--from", "a", "--to", "gone,b")
    done = pools.llorch(*words, "--json")
    found = json.loads(done.out)["pools"]
    assert done.code == 1 and found["gone"]["exit_code"] == 255 and found["b"]["exit_code"] == 0, done.err
    assert pools.content(pools.b) == pools.content(pools.a) != {}
    again = pools.llorch(*words)
    assert again.code == 1 and "b: Model qwen-0.5b is downloaded already" in again.out


def test_several_hosts_download_side_by_side(pools: Pools) -> None:
    """The one that has the model asks nobody, the other one takes it from there; a pool that is gone costs nothing."""
    config = pools.sshd.home / ".config" / "llorch" / "llorch.toml"
    config.write_text(config.read_text() + '[pools.gone]\nhost = "127.0.0.1"\nport = 1\n')
    done = pools.llorch("models", "download", "qwen-0.5b", "--host", "a,b")
    assert done.code == 0, done.err
    assert "a: Model qwen-0.5b is downloaded already" in done.out and "b: qwen-0.5b comes from pool a" in done.err
    assert pools.content(pools.b) == pools.content(pools.a) != {}


def test_a_changed_byte_at_the_source_is_refused(pools: Pools) -> None:
    """The copy fails by name of the file, and the target has no model."""
    weights = pools.a / "models" / "qwen-0.5b" / "model.safetensors"
    data = bytearray(WEIGHTS)
    data[-5] ^= 1
    weights.unlink()
    weights.write_bytes(bytes(data))
    done = pools.llorch("models", "copy", "qwen-0.5b", "--from", "a", "--to", "b")
    assert done.code == 1 and "model.safetensors" in done.err and "checksum" in done.err
    assert pools.info("b")["downloaded"] is False and pools.content(pools.b) == {}


def test_what_is_not_there_is_said_before_anything_starts(pools: Pools) -> None:
    """A model that the source lacks, the same pool twice, and a forgotten flag."""
    done = pools.llorch("models", "copy", "phi3", "--from", "a", "--to", "b")
    assert done.code == 4 and "a does not serve phi3" in done.err
    assert pools.llorch("models", "copy", "demo", "--from", "a", "--to", "b").code == 1
    assert pools.llorch("models", "copy", "qwen-0.5b", "--from", "a", "--to", "a").code == 2
    assert pools.llorch("models", "copy", "qwen-0.5b", "--to", "b").code == 2


def test_an_interrupted_copy_stops_both_sides(pools: Pools) -> None:
    """Ctrl-C while the target waits: exit 130, and no server is left on the source."""
    slow = pools.wrapper_b.with_name("started")
    pools.wrapper_b.write_text(f"#!/bin/sh\ntouch {quote(str(slow))}\nexec sleep 60\n")
    argv = [*program(), "pool", "models", "copy", "qwen-0.5b", "--from", "a", "--to", "b"]
    with subprocess.Popen(argv, env=pools.sshd.env, stderr=subprocess.DEVNULL) as command:
        until(slow.exists, "the target was started")
        assert _serving(pools.a)
        command.send_signal(signal.SIGINT)
        assert command.wait(30) == 130
    until(lambda: not _serving(pools.a), "the serving process is gone")


def test_a_killed_operator_leaves_no_server(pools: Pools) -> None:
    """kill -9 of the operator's command: the source's server sees the end of its session and ends."""
    slow = pools.wrapper_b.with_name("started")
    pools.wrapper_b.write_text(f"#!/bin/sh\ntouch {quote(str(slow))}\nexec sleep 3\n")
    argv = [*program(), "pool", "models", "copy", "qwen-0.5b", "--from", "a", "--to", "b"]
    with subprocess.Popen(argv, env=pools.sshd.env, stderr=subprocess.DEVNULL, start_new_session=True) as command:
        until(slow.exists, "the target was started")
        os.killpg(command.pid, signal.SIGKILL)
    until(lambda: not _serving(pools.a), "the serving process is gone")


def test_a_download_asks_the_other_pools_first(pools: Pools) -> None:
    """The target cannot reach the hub and has the model nevertheless, at the same commit; then it is there already."""
    done = pools.llorch("models", "download", "qwen-0.5b", "--host", "b")
    assert done.code == 0, done.err
    assert "comes from pool a" in done.err
    assert pools.content(pools.b) == pools.content(pools.a) != {}
    again = pools.llorch("models", "download", "qwen-0.5b", "--host", "b")
    assert again.code == 0 and "already" in again.out and "comes from" not in again.err


def test_a_pinned_commit_is_copied_only_if_it_is_that_one(pools: Pools) -> None:
    """The commit that pool a has comes over the LAN, by its first digits too; another one, or a branch, does not."""
    commit = str(pools.info("a")["revision"])
    for other in ("0" * 40, "main"):
        done = pools.llorch("models", "download", "qwen-0.5b", "--revision", other, "--host", "b")
        assert done.code == 5 and "comes from" not in done.err, done.err
    done = pools.llorch("models", "download", f"{REPO}@{commit[:12]}", "--host", "b")
    assert done.code == 0 and "comes from pool a" in done.err, done.err


def test_the_operator_says_where_from(pools: Pools) -> None:
    """--no-lan asks the hub alone; --from a pool without the model is an error, not a reason to ask the hub."""
    assert pools.llorch("models", "download", "qwen-0.5b", "--no-lan", "--host", "b").code == 5
    done = pools.llorch("models", "download", "qwen-0.5b", "--from", "a", "--host", "b")
    assert done.code == 0, done.err
    assert pools.llorch("models", "download", "phi3", "--from", "a", "--host", "b").code == 4
    assert pools.llorch("models", "download", "phi3", "--from", "a", "--no-lan", "--host", "b").code == 2


def test_a_profile_says_where_the_checkout_is(pools: Pools, tmp_path: Path) -> None:
    """repo= of a pool's profile is the checkout of its git commands; without it exit 4 and the hint."""
    without = pools.llorch("git", "status", "--host", "b")
    assert without.code == 4 and "LLORCH_REPO" in without.err
    checkout = tmp_path / "check out"
    subprocess.run(["git", "init", "-q", str(checkout)], check=True)
    done = pools.llorch("register", "b", "--host", "pool-a", "--repo", str(checkout))
    assert done.code == 0, done.err
    found = pools.llorch("git", "status", "--json", "--host", "b")
    assert json.loads(found.out)["checkout"] == str(checkout), found.err
