"""What a host is, from recorded answers, and whether our program can be installed there."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from llorch.base.errors import HostError
from llorch.host import survey
from llorch.host.program import Part, Platform, Program, choose, load, platform_in, platform_of

FACTS = Path(__file__).resolve().parents[1] / "facts" / "hosts"
FILE = Path("llorch")
PART = Part("llorch", FILE, 174_000_000, "0" * 64, is_executable=True)
PROGRAM = Program(FILE, (PART,), "0" * 64, Platform("linux", "x86_64"), (2, 35), "6d98abd47585")


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=lambda odd: odd.value if isinstance(odd, Enum) else str(odd)))


@pytest.mark.parametrize("path", sorted(FACTS.glob("*.json")), ids=lambda path: path.stem)
def test_hosts(path: Path) -> None:
    """Each recorded host is read as noted, and refuses a build for x86-64 and glibc 2.35 for the reason noted."""
    case = json.loads(path.read_text())
    facts = survey.parse(case["output"])
    assert plain(asdict(facts)) == case["fact"]
    why = survey.why_not(facts, PROGRAM)
    assert why is None if case["refused"] is None else case["refused"] in (why or "") and "\n" not in str(why)


def test_a_host_without_a_shell_is_an_error() -> None:
    """A restricted account that answers something else is not guessed about."""
    with pytest.raises(HostError, match="POSIX shell"):
        survey.parse("This service allows sftp connections only.\n")


@pytest.mark.parametrize("shell", ["sh", "dash", "bash", "ksh", "zsh", "busybox"])
def test_every_shell_takes_the_survey(shell: str, tmp_path: Path) -> None:
    """The command runs in each POSIX shell that is here, says where things would go, and leaves no file."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    words = [shell, "sh", "-c"] if shell == "busybox" else [shell, "-c"]
    env = {"HOME": str(tmp_path), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    done = subprocess.run([*words, survey.SCRIPT, "sh", "~/a b"], env=env, capture_output=True, text=True, check=True)
    facts = survey.parse(done.stdout)
    assert facts.platform.os == "linux" and facts.versions.path == f"{tmp_path}/a b/lib/llorch"
    assert facts.versions.state is survey.State.OK and (facts.versions.free_bytes or 0) > 0
    assert facts.cache.path == f"{tmp_path}/.cache/llorch" and list(tmp_path.iterdir()) == []


def test_the_same_build_is_known_by_hash_or_build_id() -> None:
    """Either says that a version is there; a folder of another build does not."""
    assert survey.Installed("0.1.0-aaaaaaaaaaaa", "0" * 64).is_build_of(PROGRAM)
    assert survey.Installed("0.1.0-6d98abd47585", None).is_build_of(PROGRAM)
    assert not survey.Installed("0.1.0-aaaaaaaaaaaa", None).is_build_of(PROGRAM)


def test_what_a_file_is(tmp_path: Path) -> None:
    """Scripts run anywhere; ELF and Mach-O name their processor; anything else, and an ELF not ours, is refused."""
    script, elf, mach, text = (tmp_path / name for name in ("script", "elf", "mach", "text"))
    script.write_bytes(b"#!/bin/sh\n")
    elf.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(11) + b"\xb7\x00" + bytes(44))
    mach.write_bytes(bytes.fromhex("cffaedfe07000001") + bytes(24))
    text.write_bytes(b"text")
    assert platform_in(script) is None and load(script).build_id is None
    assert platform_in(elf) == Platform("linux", "aarch64")
    assert platform_in(mach) == platform_of("Darwin", "x86_64")
    with pytest.raises(HostError, match="not a program"):
        platform_in(text)
    with pytest.raises(HostError, match="not a complete llorch file"):
        load(elf)
    with pytest.raises(HostError, match="is for linux-aarch64"):
        choose(Platform("linux", "x86_64"), elf)


def test_from_sources_there_is_nothing_to_copy() -> None:
    """Without --binary and without dist/ the message says how to build and what to name."""
    with pytest.raises(HostError, match=r"install\.sh.*--binary FILE"):
        choose(Platform("linux", "no-such-machine"), None)
