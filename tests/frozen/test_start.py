"""The light part: it starts without anything, quickly, and leaves nothing."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bare_host import Host

from llorch import PROTOCOL, __version__, applets

pytestmark = pytest.mark.frozen

START_RATIO_MAX = 3.0


def test_it_needs_no_environment_at_all(program: Path) -> None:
    """`env -i`: no HOME, no PATH, no locale."""
    done = subprocess.run([str(program), "--version"], env={}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"llorch {__version__}\n")


def test_links_choose_the_role(host: Host) -> None:
    """The user's own line: a link named llorch-pool, an empty home, no Python on PATH."""
    listed = host.run("llorch-pool", "worker", "list")
    assert listed.returncode == 0, listed.stderr
    assert "Total workers: 0" in listed.stdout
    assert host.run("llorch", "pool", "worker", "list").stdout == listed.stdout


def test_unknown_words_and_errors_keep_their_codes(host: Host) -> None:
    """The bootloader's parent process passes the child's exit code on."""
    assert host.run("llorch", "nonsense").returncode == 127
    assert host.run("llorch", "worker", "list").returncode == 2
    assert host.run("llorch-pool", "worker", "stop", "no-such-worker").returncode == 4


def test_version_says_what_is_inside(host: Host) -> None:
    """Machine-readable, and without unpacking anything."""
    facts = json.loads(host.run("orchestratord", "self", "version", "--json").stdout)
    assert facts["version"] == __version__
    assert facts["protocol"] == PROTOCOL
    assert facts["torch"] == "2.13.0+cpu"
    assert "cpu" in facts["backends"]
    assert len(facts["build_id"]) == 12
    assert not host.cache.exists()


def test_every_role_is_inside(host: Host) -> None:
    """`--help` imports each role's own parser from the frozen modules."""
    for role in applets.ROLES:
        words = [role.word] if role.word else [role.names[0]]
        done = host.run("llorch", *words, "--help")
        assert (done.returncode, "usage:" in done.stdout) == (0, True), (words, done.stderr)


def test_nothing_is_left_in_the_temporary_folder(host: Host) -> None:
    """The bootloader removes what it unpacked."""
    host.run("llorch", "--version")
    assert list((host.folder / "tmp").iterdir()) == []


def test_start_takes_no_longer_than_three_bare_pythons(host: Host) -> None:
    """The promise of a light start, measured in turns so that a busy machine slows both alike."""
    python = [sys.executable, "-c", "import argparse, json, http.client"]
    ours = [str(host.folder / "bin" / "llorch-pool"), "worker", "list"]
    host.run(*ours)

    def took(argv: list[str]) -> float:
        began = time.perf_counter()
        subprocess.run(argv, env=host.env, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - began

    for _ in range(3):  # noise can only make it look slower
        pairs = [(took(python), took(ours)) for _ in range(9)]
        bare, light = (statistics.median(side) for side in zip(*pairs, strict=True))
        if light <= START_RATIO_MAX * bare:
            return
    pytest.fail(f"{light * 1000:.0f} ms against {bare * 1000:.0f} ms")
