"""Units as systemd itself judges them, and what they never hold."""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from llorch.host import units
from llorch.host.units import Definition, Left, Scope

ODD_WORDS = ("a b", 'quo"te', "back\\slash", "100%", "%h", "$HOME", "${HOME}", "it's", "ümlaut", ";", "")


def definition(
    scope: Scope, *more: str, children: Left = Left.ENDS, env: Mapping[str, str] | None = None
) -> Definition:
    argv = (sys.executable, "-m", "llorch", *more)
    account = "root" if scope is Scope.SYSTEM else ""
    return Definition("llorch-test", "a test", argv, scope, 10.0, children, account, env or {})


@pytest.fixture
def verify(tmp_path: Path) -> object:
    """Runs `systemd-analyze verify`, as the system's or as a user's manager."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze: apt-get install systemd")

    def run(service: Definition) -> str:
        path = tmp_path / f"{service.name}.service"
        path.write_text(units.systemd(service))
        user = ["--user"] if service.scope is Scope.USER else []
        env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
        argv = ["systemd-analyze", *user, "verify", "--man=no", str(path)]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)
        said = [line for line in (done.stdout + done.stderr).splitlines() if service.name in line]
        return "\n".join(said) or ("" if done.returncode == 0 else done.stderr)

    return run


@pytest.mark.parametrize("children", Left)
@pytest.mark.parametrize("scope", Scope)
def test_systemd_finds_no_fault(verify, scope: Scope, children: Left) -> None:
    """User and system units of both daemons pass `systemd-analyze verify`, odd words included."""
    env = {"LLORCH_HOME": "/srv/my models", "ODD": "".join(ODD_WORDS)}
    assert verify(definition(scope, *ODD_WORDS, children=children, env=env)) == ""


def test_the_judge_finds_faults(verify) -> None:
    """The check above can fail: a program that is not there, a word systemd does not know."""
    bad = definition(Scope.USER)
    assert "is not executable" in verify(replace(bad, argv=("/nonexistent/program",)))


def test_a_unit_drains_and_stays() -> None:
    """Readiness, watchdog, restart on failure, a stop that waits for the grace time; workers outlive orchestratord."""
    worker = units.systemd(definition(Scope.USER)).splitlines()
    for line in ("Type=notify", "Restart=on-failure", "WatchdogSec=60", "KillMode=mixed", "TimeoutStopSec=30"):
        assert line in worker
    orchestratord = units.systemd(definition(Scope.USER, children=Left.STAYS)).splitlines()
    assert "KillMode=process" in orchestratord
    assert "User=root" in units.systemd(definition(Scope.SYSTEM)).splitlines()
    assert not any(line.startswith("User=") for line in worker)


def test_words_keep_their_meaning() -> None:
    """What systemd would expand is written so that it does not; a control character is refused."""
    assert units.argument('$HOME 100% "x" \\') == '"$$HOME 100%% \\"x\\" \\\\"'
    assert units.quoted("A=$x") == '"A=$x"'
    with pytest.raises(ValueError, match="control character"):
        units.argument("a\nExecStart=/bin/sh")


def test_launchd_gets_a_property_list() -> None:
    """The plist reads back as meant; it restarts after a failure only."""
    found = plistlib.loads(units.launchd(definition(Scope.USER, "worker", env={"A": "b"}), "/tmp/x.log"))
    assert found["ProgramArguments"][1:] == ["-m", "llorch", "worker"]
    assert found["KeepAlive"] == {"SuccessfulExit": False}
    assert found["EnvironmentVariables"] == {"A": "b"}
