"""`llorch service`: what is written for a command line, and what it refuses. Nothing is started here."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.daemons import environment
from tests.remote.cli import llorch

SECRET = "hf_verysecret"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    secrets = {"LLORCH_API_KEY": SECRET, "HF_TOKEN": SECRET, "LLORCH_ORCHESTRATOR": f"http://u:{SECRET}@h:8080"}
    return environment(tmp_path, {"LLORCH_HOME": str(tmp_path / "my home"), **secrets})


def test_a_unit_is_written_once(env: dict[str, str], tmp_path: Path) -> None:
    """The unit lies where the user's manager looks, holds this shell's places and no secret; twice changes nothing."""
    words = ("service", "install", "worker", "w1", "--model", "demo", "--no-start", "--no-linger", "--json")
    first = llorch(*words, env=env)
    assert first.code == 0, first.err
    body = json.loads(first.out)
    path = tmp_path / ".config" / "systemd" / "user" / "llorch-worker-w1.service"
    assert (body["path"], body["changed"], body["started"]) == (str(path), True, False)
    text = path.read_text()
    assert text == body["text"]
    assert f'Environment="LLORCH_HOME={tmp_path / "my home"}"' in text
    assert SECRET not in text
    assert '"--worker-id" "w1" "--model" "demo"' in text
    assert json.loads(llorch(*words, env=env).out)["changed"] is False
    if shutil.which("systemctl") is None:
        pytest.skip("needs systemctl for the rest: apt-get install systemd")
    status = llorch("service", "status", "--json", env=env)
    assert [row["name"] for row in json.loads(status.out)["services"]] == ["llorch-worker-w1"]


def test_a_dry_run_writes_nothing(env: dict[str, str], tmp_path: Path) -> None:
    """The unit and the commands are printed; the disk stays as it is."""
    done = llorch("service", "install", "orchestratord", "--port", "8090", "--dry-run", env=env)
    assert done.code == 0, done.err
    assert '"orchestratord" "--port" "8090"' in done.out
    assert "systemctl --user daemon-reload" in done.out
    assert not (tmp_path / ".config").exists()


def test_a_failing_manager_says_how_to_go_on(env: dict[str, str], tmp_path: Path) -> None:
    """Where no manager answers the unit is written all the same, and the message has the commands that are left."""
    if shutil.which("systemctl") is None:
        pytest.skip("needs systemctl: apt-get install systemd")
    lost = {**env, "XDG_RUNTIME_DIR": str(tmp_path / "none"), "DBUS_SESSION_BUS_ADDRESS": "unix:path=/nonexistent"}
    done = llorch("service", "install", "orchestratord", "--no-linger", env=lost)
    assert done.code == 1
    assert "is written, but" in done.err and "systemctl --user restart llorch-orchestratord" in done.err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("install", "worker"), 2, "name the worker's id"),
        (("install", "worker", "../x", "--model", "demo"), 2, "name the worker's id"),
        (("install", "worker", "w1"), 2, "--model is missing"),
        (("install", "orchestratord", "w1"), 2, "no id"),
        (("install", "orchestratord", "--model", "demo"), 2, "--model is for a worker"),
        (("install", "orchestratord", "--system"), 2, "--user NAME"),
        (("install", "orchestratord", "--user", "me"), 2, "belongs to --system"),
        (("install", "orchestratord", "--grace", "-1"), 2, "--grace"),
        (("install", "orchestratord", "--flags", "'"), 2, "--flags"),
        (("uninstall", "orchestratord"), 4, "not installed"),
        (("logs", "worker", "w9"), 4, "not installed"),
        (("status", "worker", "w9"), 4, "not installed"),
    ],
)
def test_bad_input_has_one_clear_line(env: dict[str, str], words: tuple[str, ...], code: int, says: str) -> None:
    """Each refusal says what to do; nothing is written."""
    env = {name: value for name, value in env.items() if name != "SUDO_USER"}
    done = llorch("service", *words, env=env)
    assert (done.code, done.err.count("\n")) == (code, 1), done.err
    assert says in done.err
    assert not os.path.exists(os.path.join(env["HOME"], ".config"))
