"""`llorch config`: what holds and why, everything that is wrong at once, and no secret on the screen."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from llorch.base import settings_table
from tests.daemons import environment, program

GOOD = """\
orchestrator = "http://me:hush@gpu-box:8080"
[orchestratord]
port = 9000
queue_timeout_s = 3
[worker]
slots = 3
[tenants.alice]
weight = 2
models = ["demo"]
[pools.den]
host = "10.0.0.1"
"""
BAD = """\
orchestartor = "http://x"
[orchestratord]
prot = 1
port = 70000
queue_timeout_s = "soon"
[worker]
slots = 0
slot = 3
[tenants.alice]
weight = -1
models = ["../demo"]
[pools.den]
mac = "zz"
[models.demo]
pools = ["dem"]
pinned = 3
[pool]
repoo = "x"
"""


def config(home: Path, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    line = [*program("config"), *argv]
    return subprocess.run(line, env=environment(home, env), capture_output=True, text=True, timeout=60, check=False)


def test_every_setting_is_shown_with_its_origin(tmp_path: Path) -> None:
    """File with line, variable, default; every row of the table; the sections that the file names."""
    path = tmp_path / "l.toml"
    path.write_text(GOOD)
    env = {"LLORCH_CONFIG": str(path), "LLORCH_QUEUE_TIMEOUT_S": "5", "LLORCH_WORKER_THREADS": "2"}
    shown = config(tmp_path, "show", "--origin", **env)
    assert shown.returncode == 0, shown.stderr
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert f"port = 9000 # {path}:3" in lines and 'bind = "127.0.0.1" # default' in lines
    assert "queue_timeout_s = 5.0 # LLORCH_QUEUE_TIMEOUT_S" in lines and "threads = 2 # LLORCH_WORKER_THREADS" in lines
    assert f"weight = 2 # {path}:8" in lines and "[pools.den]" in lines
    rows = json.loads(config(tmp_path, "show", "--json", **env).stdout)
    found = {(row["section"], row["key"]): row for row in rows}
    for section, settings in settings_table.SECTIONS.items():
        assert all((section, setting.key) in found for setting in settings)
    port = found["orchestratord", "port"]
    assert (port["value"], port["origin"], port["where"], port["changes"]) == (9000, "file", f"{path}:3", "restart")


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    """Of a key only that it is there; of a URL not its password."""
    path = tmp_path / "l.toml"
    path.write_text(GOOD)
    for form in ("--origin", "--json"):
        shown = config(tmp_path, "show", form, LLORCH_CONFIG=str(path), LLORCH_API_KEY="hush-hush").stdout
        assert "hush" not in shown and "set, not shown" in shown and "http://gpu-box:8080" in shown


def test_what_is_shown_can_be_read_again(tmp_path: Path) -> None:
    """The output is a llorch.toml that says the same."""
    path, copy = tmp_path / "l.toml", tmp_path / "copy.toml"
    path.write_text(GOOD)
    shown = config(tmp_path, "show", "--config", str(path)).stdout
    copy.write_text(shown)
    assert config(tmp_path, "check", str(copy)).returncode == 0
    again = config(tmp_path, "show", "--config", str(copy)).stdout
    assert again.replace(str(copy), str(path)) == shown


def test_one_section_or_one_key(tmp_path: Path) -> None:
    """A part by its name; a name that is not there is told with what was meant."""
    assert config(tmp_path, "show", "pool").stdout.split() == ["[pool]", "#", "repo", "is", "not", "set"]
    assert "port = 8080" in config(tmp_path, "show", "orchestratord.port").stdout
    missing = config(tmp_path, "show", "orchestratord.prot")
    assert missing.returncode == 4 and "did you mean 'orchestratord.port'" in missing.stderr


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    """Every problem with its line, in the order of the file, exit 2; the daemon names the first and counts the rest."""
    path = tmp_path / "l.toml"
    path.write_text(BAD)
    told = config(tmp_path, "check", str(path))
    assert told.returncode == 2 and told.stdout == ""
    lines = [int(line.removeprefix(f"{path}:").partition(":")[0]) for line in told.stderr.splitlines()]
    assert lines == [1, 3, 4, 5, 7, 8, 10, 11, 12, 15, 16, 18]
    for word in ("orchestrator", "port", "slots", "den", "repo"):
        assert f"did you mean '{word}'" in told.stderr
    body = json.loads(config(tmp_path, "check", str(path), "--json").stdout)
    assert body["ok"] is False and len(body["problems"]) == len(lines)
    places = [(problem["key"], problem["line"]) for problem in body["problems"]]
    assert ("orchestratord.prot", 3) in places and ("tenants.alice.models", 11) in places
    started = subprocess.run(
        [*program("orchestratord"), "--config", str(path)],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert started.returncode == 2 and len(started.stderr.splitlines()) == 1
    assert "more: 'llorch config check' tells all" in started.stderr


def test_what_is_no_toml_names_its_line(tmp_path: Path) -> None:
    """A syntax error is one problem; a file that is not there is told, too; an empty one is good."""
    path = tmp_path / "l.toml"
    path.write_text("[worker]\nslots = = 3\n")
    told = config(tmp_path, "check", str(path))
    assert told.returncode == 2 and "line 2" in told.stderr and len(told.stderr.splitlines()) == 1
    assert "does not exist" in config(tmp_path, "check", str(tmp_path / "none")).stderr
    path.write_text("")
    assert config(tmp_path, "check", str(path)).returncode == 0
    path.write_bytes(b"\xff\xfe")
    assert config(tmp_path, "check", str(path)).returncode == 2
